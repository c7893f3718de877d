"""Own STUN and TURN servers, retention, heartbeat and call timeout, in a stack of any cloud."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pulumi.runtime import rpc

from stacks.errors import ConfigError
from tests.stacks.local.test_program import run
from tests.stacks.test_daily import CLOUDS, KEY, WEBRTC, config, settings

TURN = {"urls": ["turn:turn.example:3478?transport=udp"], "username": "me", "credential": "hunter2-of-turn"}
STUN = {"urls": ["stun:stun.example:3478"]}
SECRETS = ("SWITCHBOARD_ICE_SERVERS", "SWITCHBOARD_TURN_SECRET")
SHARED = ["turn:shared.example:3478", "turns:shared.example:5349?transport=tcp"]


def described(cloud: str, **given: Any) -> dict[str, Any]:
    whole = {
        "agents": WEBRTC,
        "keys": [KEY],
        **({"fly": {"prefix": "acme"}} if cloud == "fly" else {}),
        **given,
    }
    text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in whole.items()}
    return run(by_environment=False, cloud=cloud, **text)


def variables(cloud: str, resources: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The dispatcher's, those that anybody reads in the state and those that are encrypted."""
    inputs = resources["dispatcher" if cloud != "fly" else "dispatcher-0"]["inputs"]
    if cloud == "local":
        return inputs["environment"], rpc.unwrap_rpc_secret(inputs["secrets"])
    if cloud == "fly":
        secret = resources["dispatcher-secrets"]["inputs"]["values"]
        return inputs["config"]["env"], rpc.unwrap_rpc_secret(secret)
    envs = inputs["envs"]
    found = dict(variable.split("=", 1) for variable in rpc.unwrap_rpc_secret(envs))
    return ({}, found) if rpc.is_rpc_secret(envs) else (found, {})


@pytest.mark.parametrize("cloud", CLOUDS)
def test_own_servers_reach_the_dispatcher_and_their_secrets_nobody_else(cloud: str) -> None:
    found = described(cloud, iceServers=[STUN, TURN], turnUrls=SHARED, turnSecret="hunter2-of-coturn")
    plain, secret = variables(cloud, found["resources"])
    servers = json.loads(secret["SWITCHBOARD_ICE_SERVERS"])
    assert servers[-2:] == [STUN, TURN]
    assert secret["SWITCHBOARD_TURN_SECRET"] == "hunter2-of-coturn"
    assert json.loads((plain | secret)["SWITCHBOARD_TURN_URLS"]) == SHARED
    assert "hunter2" not in json.dumps(plain)
    if cloud == "docker":
        shown = found["resources"]["dispatcher-variables"]["inputs"]["values"]
        assert rpc.is_rpc_secret(shown) or all(rpc.is_rpc_secret(shown[name]) for name in SECRETS)
    for name in ("dispatcher", "dispatcher-variables", "machines", "dispatcher-secrets"):
        for key in ("secrets", "envs", "values"):
            found["resources"].get(name, {}).get("inputs", {}).pop(key, None)
    assert "hunter2" not in json.dumps(found)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_servers_without_a_credential_are_no_secret(cloud: str) -> None:
    plain, secret = variables(cloud, described(cloud, iceServers=[STUN])["resources"])
    assert json.loads((plain | secret)["SWITCHBOARD_ICE_SERVERS"])[-1] == STUN
    assert "SWITCHBOARD_ICE_SERVERS" in plain


@pytest.mark.parametrize("cloud", CLOUDS)
def test_retention_heartbeat_and_call_timeout_are_the_configs(cloud: str) -> None:
    given = {"keepSessionsDays": 7, "heartbeatSeconds": 2, "callTimeoutSeconds": 60}
    found = settings(config(cloud, agents=WEBRTC, **given))
    assert (found.keep_sessions_days, found.heartbeat_seconds, found.call_timeout_seconds) == (7, 2, 60)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_defaults_change_no_variable_of_a_stack_that_is_up(cloud: str) -> None:
    """The engine hands over every default of Pulumi.yaml."""
    defaults = {"keepSessionsDays": 30, "heartbeatSeconds": 5, "callTimeoutSeconds": 30}
    empty: dict[str, Any] = {"iceServers": [], "turnUrls": [], "turnSecret": ""}
    given = settings(config(cloud, agents=WEBRTC, **defaults, **empty)).to_environment()
    assert given == settings(config(cloud, agents=WEBRTC)).to_environment()
    new = ("KEEP_SESSIONS_DAYS", "HEARTBEAT_SECONDS", "CALL_TIMEOUT_SECONDS", "TURN_URLS")
    assert not {f"SWITCHBOARD_{name}" for name in new} & set(given)


def test_a_stack_has_one_kind_of_turn_server_with_shared_secret() -> None:
    own = {"turn": True, "turnAddress": "203.0.113.7"}
    with pytest.raises(ConfigError) as refused:
        config("docker", agents=WEBRTC, docker=own, turnUrls=SHARED, turnSecret="hunter2")
    assert str(refused.value) == "switchboard:turnUrls: is there, and docker.turn is on; allowed: one of them"
    found = settings(config("docker", agents=WEBRTC, docker=own, iceServers=[TURN]))
    assert found.ice_servers[-1].credential == TURN["credential"], "one with a fixed credential goes with it"
