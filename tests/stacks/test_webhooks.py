"""Webhooks to a back end in a stack's config: the same for every cloud, and the secret nobody's to read."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.settings import AgentSettings, Settings
from stacks.errors import ConfigError
from tests.stacks.test_daily import CLOUDS, config
from tests.stacks.test_ice import described, variables

SECRET, OLDER = (f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
URL = "https://backend.example.com/hooks"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_endpoint_and_both_secrets_reach_the_dispatcher(cloud: str, monkeypatch) -> None:
    found = described(
        cloud,
        webhookUrl=URL,
        webhookSecret=SECRET,
        webhookPreviousSecret=OLDER,
        webhookNetworks=["10.0.0.0/16"],
    )
    plain, secret = variables(cloud, found["resources"])
    assert json.loads(secret["SWITCHBOARD_WEBHOOK_SECRETS"]) == [SECRET, OLDER]
    assert SECRET not in json.dumps(plain)
    told = {name: value for name, value in (plain | secret).items() if "WEBHOOK" in name}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = Settings(agents={"echo": AgentSettings(bot=Path("bot.py"))})
    assert settings.webhook_url == URL
    assert [one.get_secret_value() for one in settings.webhook_secrets] == [SECRET, OLDER]
    assert [str(one) for one in settings.webhook_networks] == ["10.0.0.0/16"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_stack_without_webhooks_has_no_variable_of_theirs(cloud: str) -> None:
    plain, secret = variables(cloud, described(cloud)["resources"])
    assert not any("WEBHOOK" in name for name in plain | secret)


def test_keys_that_the_engine_gives_as_empty_texts_name_no_back_end() -> None:
    found = config("local", webhookUrl="", webhookSecret="", webhookPreviousSecret="")
    assert (found.webhook_url, found.webhook_secret.get_secret_value()) == ("", "")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"webhookUrl": URL}, "webhookSecret: is missing"),
        ({"webhookSecret": SECRET}, "webhookUrl: is missing"),
        ({"webhookUrl": "backend.example.com", "webhookSecret": SECRET}, "webhookUrl"),
        ({"webhookUrl": URL, "webhookSecret": "whsec_short"}, "webhookSecret"),
        ({"webhookUrl": URL, "webhookSecret": SECRET, "webhookNetworks": ["inside"]}, "webhookNetworks"),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config("local", **given)
    assert f"switchboard:{named}" in str(refused.value)
    assert "whsec_short" not in str(refused.value)
