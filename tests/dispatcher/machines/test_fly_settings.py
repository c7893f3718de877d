"""Placements at Fly: their settings, and the sizes that Fly has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dispatcher.app import build
from dispatcher.machines.fly.protocol import FlyTokens, fly_authorization
from dispatcher.machines.fly.provider import FlyProvider
from dispatcher.machines.fly.settings import FlyShared
from dispatcher.machines.fly.sizes import Guest, guest
from dispatcher.settings import Settings
from tests.fly.world import IMAGE

FLY = {"provider": "fly", "apps": ["bots-1", "bots-2"]}


def settings(*, agent: dict[str, Any] | None = None, **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "agents": {"echo": {"bot": "/app/bot.py", "image": IMAGE, **(agent or {})}},
        "placements": {"iad": {**FLY, "region": "iad,us"}},
        "fly_api_token": "fm2_secret",
    }
    return Settings(**given | changes)


@pytest.mark.parametrize(
    ("kind", "cpu", "memory_mb", "made"),
    [
        ("performance", 1.0, 1024, (1, 2048)),
        ("performance", 0.5, 2049, (1, 4096)),
        ("performance", 1.0, 8192, (1, 8192)),
        ("performance", 1.0, 8193, (2, 10240)),
        ("performance", 3.0, 1024, (4, 8192)),
        ("performance", 16.0, 131072, (16, 131072)),
        ("shared", 1.0, 300, (1, 512)),
        ("shared", 1.0, 4096, (2, 4096)),
        ("shared", 5.0, 256, (6, 1536)),
        ("shared", 7.0, 256, (8, 2048)),
        ("performance", 5.0, 256, (6, 12288)),
        ("performance", 9.0, 256, (10, 20480)),
        ("performance", 11.0, 256, (12, 24576)),
        ("performance", 13.0, 256, (14, 28672)),
        ("performance", 15.0, 256, (16, 32768)),
    ],
)
def test_a_size_is_rounded_up_to_the_smallest_that_fly_has(kind, cpu, memory_mb, made):
    assert guest(kind, cpu, memory_mb) == Guest(kind, *made)


@pytest.mark.parametrize(
    ("kind", "cpu", "memory_mb", "allowed"),
    [("performance", 17.0, 1024, "up to 16 and 131072"), ("shared", 1.0, 16385, "up to 8 and 16384")],
)
def test_a_size_that_fly_does_not_have_is_refused(kind, cpu, memory_mb, allowed):
    with pytest.raises(ValueError, match=allowed):
        guest(kind, cpu, memory_mb)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fly_api_token": None}, "fly_api_token is missing, and placement 'iad' is at Fly"),
        ({"agent": {"image": "registry.fly.io/bots:1"}}, "image 'registry.fly.io/bots:1' has no digest"),
        ({"agent": {"image": None}}, "agent 'echo': image is missing"),
        ({"agent": {"cpu": 17}}, "agent 'echo' at placement 'iad': cpu 17 .* allowed: up to 16"),
        ({"placements": {"iad": {**FLY, "apps": []}}}, "apps"),
        ({"placements": {"iad": {**FLY, "apps": ["Bots"]}}}, "apps"),
        ({"placements": {"iad": {**FLY, "drainingApps": ["bots-2"]}}}, "'bots-2' is in apps, too"),
        ({"placements": {"iad": {**FLY, "region": "iad, us"}}}, "region"),
        ({"placements": {"iad": {**FLY, "cpuKind": "huge"}}}, "cpuKind"),
        ({"placements": {"iad": {**FLY, "deployment": "a" * 25}}}, "deployment"),
        ({"fly_api_url": "https://user:secret@fly.test"}, "fly_api_url"),
    ],
)
def test_a_bad_placement_is_refused_in_words(changes, words):
    with pytest.raises(ValidationError, match=words):
        settings(**changes)


def test_the_token_is_written_down_nowhere_and_the_rest_is():
    given = settings()
    environment = given.to_environment()
    assert "fm2_secret" not in json.dumps(environment) + repr(given)
    assert json.loads(environment["SWITCHBOARD_PLACEMENTS"]) == {"iad": {**FLY, "region": "iad,us"}}


@pytest.mark.parametrize(
    ("token", "header"),
    [
        ("fm2_one", "FlyV1 fm2_one"),
        ("FlyV1 fm2_one", "FlyV1 fm2_one"),
        ("FlyV1 fm2_one,fm2_more, FlyV1 fm2_two", "FlyV1 fm2_one,fm2_more,fm2_two"),
        ("of-a-proxy", "Bearer of-a-proxy"),
    ],
)
def test_a_token_is_sent_as_fly_prints_it(token, header):
    assert fly_authorization(token) == header


def test_each_app_may_have_a_token_of_its_own():
    both = settings(fly_api_token='{"bots-1": "FlyV1 fm2_one", "bots-2": "fm2_two"}')
    token = both.shared("fly", FlyShared).api_token
    assert token is not None
    tokens = FlyTokens.parse(token.get_secret_value())
    assert [tokens.of(app) for app in ("bots-1", "bots-2", "bots-3")] == ["FlyV1 fm2_one", "fm2_two", ""]
    assert "fm2_" not in repr(tokens)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ('{"bots-1": "fm2_secret"}', "fly_api_token has none for app 'bots-2' of placement 'iad'"),
        ('{"bots-1": "fm2_secret", "bots-2": ""}', "a JSON object of app → token"),
        ('{"bots-1": "fm2_secret", "bots-2": 7}', "a JSON object of app → token"),
        ('{"bots-1": "fm2_secret", "bots-2": "fm2_sec\\nret"}', "a JSON object of app → token"),
        ('{"bots-1": "fm2_secret"', "a JSON object of app → token"),
    ],
)
def test_tokens_that_are_not_one_for_each_app_are_refused_and_never_said(token, words):
    with pytest.raises(ValidationError, match=words) as raised:
        settings(fly_api_token=token)
    assert "fm2_sec" not in str(raised.value)


def test_an_app_that_is_draining_needs_its_token_too():
    placements = {"iad": {**FLY, "drainingApps": ["bots-3"]}}
    tokens = {"bots-1": "fm2_a", "bots-2": "fm2_b"}
    with pytest.raises(ValidationError, match="none for app 'bots-3'"):
        settings(placements=placements, fly_api_token=json.dumps(tokens))
    settings(placements=placements, fly_api_token=json.dumps({**tokens, "bots-3": "fm2_c"}))


def test_a_placement_at_fly_is_a_provider(tmp_path):
    dispatcher = build(settings(data_dir=tmp_path))
    provider = dispatcher.fleet._placements["iad"].provider
    assert isinstance(provider, FlyProvider)
    assert {provider.lane(f"m-{number}") for number in range(50)} == {"bots-1", "bots-2"}
