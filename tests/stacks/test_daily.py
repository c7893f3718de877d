"""Rooms at Daily in a stack's config: the same for every cloud, and secret in each of them."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pulumi.runtime import rpc

from dispatcher.settings import Settings
from dispatcher.transports.daily.settings import DailyShared
from stacks import daily
from stacks.config import StackConfig, parse
from stacks.errors import ConfigError
from stacks.local import program
from tests.ports import free_port
from tests.stacks.local.test_program import REPOSITORY, run
from tests.stacks.planning import plan_of, settings_with_stand_ins

CLOUDS = ("local", "docker", "fly")
WEBRTC = {"echo": {"bot": "bot/agents/echo.py"}}
DAILY = {"echo": {"bot": "bot/agents/echo.py", "transports": ["daily"]}}
DOMAIN = {"domain": "acme", "domainId": "d1"}
KEY = {"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start"}
HOOK = "aHVudGVyMi1vZi10aGUtaG9vaw=="
KEY_OF_SETTINGS, HOOK_OF_SETTINGS = "SWITCHBOARD_DAILY_API_KEY", "SWITCHBOARD_DAILY_WEBHOOK_SECRET"


@pytest.fixture(autouse=True)
def nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAILY_API_KEY", "DAILY_WEBHOOK_SECRET"):
        monkeypatch.delenv(name, raising=False)


def values(cloud: str, **given: Any) -> dict[str, str]:
    whole = {"cloud": cloud, "agents": DAILY, "keys": [KEY], **given}
    if cloud == "fly":
        whole["fly"] = {"prefix": "acme"}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in whole.items()}


def described_by(cloud: str, **given: Any) -> dict[str, Any]:
    """Return the resources that the program describes."""
    return run(by_environment=False, **values(cloud, **given))


def config(cloud: str, **given: Any) -> StackConfig:
    text = {f"switchboard:{key}": value for key, value in values(cloud, **given).items()}
    return parse(text, project="switchboard", checkout=REPOSITORY, stack="prod")


def settings(found: StackConfig) -> Settings:
    return settings_with_stand_ins(found)


def check(found: StackConfig) -> None:
    plan_of(found)


def known(found: Settings) -> tuple[str | None, ...]:
    given = found.shared("daily", DailyShared)
    secrets = (given.api_key, given.webhook_secret)
    return (given.domain, *(None if one is None else one.get_secret_value() for one in secrets))


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_config_goes_before_the_environment(cloud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-outside")
    monkeypatch.setenv("DAILY_WEBHOOK_SECRET", HOOK)
    found = config(cloud, daily={**DOMAIN, "apiUrl": "https://daily.example/v1"})
    assert known(settings(found)) == ("acme", "hunter2-of-outside", HOOK)
    given = settings(found).shared("daily", DailyShared)
    assert (given.domain_id, given.api_url) == ("d1", "https://daily.example/v1")
    assert daily.secret_variables(found) == {KEY_OF_SETTINGS: "hunter2-of-outside", HOOK_OF_SETTINGS: HOOK}

    found = config(cloud, daily=DOMAIN, dailyApiKey="hunter2-of-the-config")
    assert known(settings(found)) == ("acme", "hunter2-of-the-config", HOOK)
    assert settings(found).shared("daily", DailyShared).api_url == "https://api.daily.co/v1"
    assert "hunter2" not in json.dumps(settings(found).to_environment())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_who_wants_no_rooms_is_asked_for_nothing_and_gives_nothing(
    cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-for-something-else")
    found = config(cloud, agents=WEBRTC, port=str(free_port()))
    check(found)
    assert known(settings(found)) == (None, None, None)
    assert daily.secret_variables(found) == daily.not_set_here(found) == {}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_rooms_can_be_made_ready_before_an_agent_offers_them(
    cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    assert known(settings(config(cloud, agents=WEBRTC, daily=DOMAIN)))[:2] == ("acme", "hunter2-of-daily")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"daily": DOMAIN},
            "switchboard:dailyApiKey: is missing, and agent 'echo' offers the transport 'daily'; allowed: "
            "the API key of a Daily domain, in the config (`pulumi config set --secret "
            "switchboard:dailyApiKey`) or as DAILY_API_KEY of the environment",
        ),
        (
            {"dailyApiKey": "hunter2-of-daily"},
            "switchboard:daily.domain: is missing, and agent 'echo' offers the transport 'daily'; allowed: "
            "the name of a Daily domain: of https://voice.daily.co it is voice (`pulumi config set --path "
            "switchboard:daily.domain voice`)",
        ),
        (
            {"agents": WEBRTC, "daily": DOMAIN},
            "switchboard:dailyApiKey: is missing, and switchboard:daily is there; allowed: ",
        ),
        (
            {"agents": WEBRTC, "dailyWebhookSecret": HOOK},
            "switchboard:dailyApiKey: is missing, and switchboard:dailyWebhookSecret is there; allowed: ",
        ),
        (
            {"daily": DOMAIN, "dailyApiKey": "hunter2\nof-daily"},
            "switchboard:dailyApiKey: it is empty or has other characters than visible ASCII; allowed: ",
        ),
        ({"daily": DOMAIN, "dailyApiKey": "hunter2"}, "switchboard:dailyApiKey: is refused; allowed: "),
        (
            {"daily": DOMAIN, "dailyApiKey": "hunter2-of-daily", "dailyWebhookSecret": "hunter2!"},
            "switchboard:dailyWebhookSecret: it is not base64; allowed: ",
        ),
        (
            {"daily": {**DOMAIN, "apiUrl": "http://daily.example"}, "dailyApiKey": "hunter2-of-daily"},
            "switchboard:daily.apiUrl: 'http://daily.example' is not accepted; allowed: https://host/path",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_an_engine_runs(
    cloud: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}") as refused:
        check(config(cloud, **given))
    assert "hunter2" not in str(refused.value)


def test_a_bad_value_of_the_environment_is_named_after_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2")
    with pytest.raises(ConfigError) as refused:
        check(config("docker", daily=DOMAIN))
    assert str(refused.value) == (
        "switchboard:dailyApiKey (DAILY_API_KEY of the environment): is refused; allowed: "
        "the API key of a Daily domain, of at least 8 characters"
    )


def test_all_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        check(config("local"))
    assert [line.partition(": is missing")[0] for line in str(refused.value).splitlines()] == [
        "switchboard:dailyApiKey",
        "switchboard:daily.domain",
    ]


def test_what_is_left_to_the_environment_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = config("fly", daily=DOMAIN, dailyApiKey="hunter2-of-the-config")
    assert daily.not_set_here(found) == {HOOK_OF_SETTINGS: "DAILY_WEBHOOK_SECRET"}
    monkeypatch.setenv("DAILY_WEBHOOK_SECRET", "")
    assert daily.not_set_here(found) == {}, "who sets it empty does without"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_a_program_hands_the_secrets_to_the_dispatcher_alone(
    cloud: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAILY_API_KEY", "hunter2-of-daily")
    described = described_by(cloud, daily=DOMAIN, dailyWebhookSecret=HOOK)
    place = {
        "local": [("dispatcher", "secrets"), ("machines", "secrets")],
        "docker": [("dispatcher", "envs"), ("dispatcher-variables", "values")],
        "fly": [("dispatcher-secrets", "values")],
    }[cloud]
    for name, key in place:
        held = described["resources"][name]["inputs"].pop(key)
        assert rpc.is_rpc_secret(held), "it is encrypted in the state, and no plan shows it"
        variables = rpc.unwrap_rpc_secret(held)
        if key == "envs":
            variables = dict(variable.split("=", 1) for variable in variables)
        assert variables[KEY_OF_SETTINGS] == "hunter2-of-daily"
        assert variables[HOOK_OF_SETTINGS] == HOOK
    elsewhere = json.dumps(described)
    assert "hunter2" not in elsewhere
    assert HOOK not in elsewhere


def test_a_package_that_local_bots_lack_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"daily": DOMAIN, "dailyApiKey": "hunter2-of-daily"}
    if importlib.util.find_spec("daily") is None:
        (warning,) = described_by("local", **given)["warnings"]
        assert warning == program.missing_package(config("local", **given))
        assert "switchboard:agents.echo.transports: a bot in a Daily room needs the package" in warning
        assert warning.endswith("images/requirements-bot-daily.txt")
    (tmp_path / "daily.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert program.missing_package(config("local", **given)) is None
