"""The settings for Daily."""

import json

import pytest
from pydantic import ValidationError

from dispatcher.settings import Settings
from dispatcher.transports.daily.settings import DailyShared
from tests.daily.fake import API_KEY
from tests.daily.harness import KEYS, agents


def settings(**more) -> Settings:
    return Settings.model_validate({"agents": agents(), **KEYS, **more})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"daily_api_key": None, "daily_domain": None},
            "agent 'echo' offers the transport 'daily', for which",
        ),
        ({"daily_domain": None}, "daily_domain is missing; allowed: both daily_api_key and daily_domain"),
        ({"daily_api_key": None}, "daily_api_key is missing; allowed: both daily_api_key and daily_domain"),
        ({"daily_domain": "https://example.daily.co"}, "String should match pattern"),
        ({"daily_domain_id": "a b"}, "String should match pattern"),
        ({"daily_api_url": "http://api.daily.co/v1"}, "allowed: https://host/path, or http:// on loopback"),
        ({"daily_api_url": "https://user:pass@api.daily.co"}, "a URL with an @ is not accepted"),
        ({"daily_webhook_secret": "not base64!"}, "it is not base64; allowed: `hmac` of the webhook"),
        ({"daily_webhook_secret": ""}, "it is empty"),
    ],
)
def test_what_cannot_work_is_refused_without_the_key(values, words):
    with pytest.raises(ValidationError) as refused:
        settings(**values)
    assert words in str(refused.value)
    assert API_KEY not in str(refused.value)
    assert "user:pass" not in str(refused.value)


def test_the_api_may_be_a_fake_on_loopback():
    given = settings(daily_api_url="http://127.0.0.1:8080/v1").shared("daily", DailyShared)
    assert given.api_url == "http://127.0.0.1:8080/v1"


def test_secrets_are_not_among_what_a_stack_writes_down():
    assert {"daily_api_key", "daily_webhook_secret"} <= Settings.secret_settings()
    known = settings(daily_webhook_secret="c2VjcmV0")
    assert API_KEY not in json.dumps(known.to_environment()) + repr(known)
    assert "c2VjcmV0" not in json.dumps(known.to_environment()) + repr(known)
