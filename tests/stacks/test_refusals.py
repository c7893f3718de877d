"""Refusals show no secret, wherever it was put by mistake; and one fault is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.fields import model_at
from dispatcher.settings import AgentSettings
from stacks.config import StackConfig, parse
from stacks.docker.config import DockerConfig
from stacks.errors import ConfigError
from stacks.fly.config import FlyConfig
from stacks.refusals import masked, sections
from tests.stacks.planning import plan_of

REPOSITORY = Path(__file__).resolve().parents[2]
BOT = "bot/agents/echo.py"
KEY = {"name": "web", "hash": f"sha256:{'0' * 64}", "scope": "start"}


def aliases(model: Any) -> list[str]:
    return [field.alias for field in model.model_fields.values()]


def faults(values: dict[str, Any]) -> str:
    """Return a plan's words on this config before an engine runs."""
    text = {
        f"switchboard:{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }
    try:
        config = parse(text, project="switchboard", checkout=REPOSITORY, stack="prod")
        plan_of(config)
    except ConfigError as error:
        return str(error)
    return ""


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
secrets = st.text(LETTERS, min_size=20, max_size=48).filter(
    lambda text: any(one.isdigit() for one in text) and any(one.isalpha() for one in text)
)
"""As services make them up."""

forms = st.sampled_from(
    [
        *(
            "{}",
            "sk-{}",
            "sk-proj-{}",
            "FlyV1 fm2_{}",
            "OPENAI_API_KEY={}",
            "openai_api_key={}",
            "export KEY={}",
        ),
        *("https://me:{}@voice.example", "https://{}@voice.example/v1", "ssh://deploy:{}@vm.example"),
        *("postgresql://me:{}@db/x", "turn:me:{}@turn.example:3478", "registry.example/x?token={}"),
        *("https://h.example/#key={}", "me:{}@host", "{}\n", "mysql://me:p@{}@db", " {}"),
    ]
)
shapes = st.sampled_from([lambda text: text, lambda text: [text], lambda text: {"value": text}])


@st.composite
def misplaced(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """A config with a secret somewhere in it, and the secret."""
    secret = draw(secrets)
    value = draw(shapes)(draw(forms).format(secret))
    cloud = draw(st.sampled_from(["local", "docker", "fly"]))
    agent: dict[str, Any] = {"bot": BOT}
    values: dict[str, Any] = {"cloud": cloud, "agents": {"echo": agent}, "keys": [dict(KEY)]}
    place = draw(st.sampled_from(["top", "unknown", "agent", "env", "section", "key", "ice", "namespace"]))
    if place == "top":
        values[draw(st.sampled_from(aliases(StackConfig)))] = value
    elif place == "unknown":
        values[draw(st.sampled_from(["dailyApiKye", "openai", "password", "turn"]))] = value
    elif place == "agent":
        agent[draw(st.sampled_from([*aliases(AgentSettings), "apiKey", "environment"]))] = value
    elif place == "env":
        agent["env"] = draw(
            st.sampled_from([value, [value], ["OPENAI_API_KEY", value], {"OPENAI_API_KEY": value}])
        )
    elif place == "section":
        section = draw(st.sampled_from(sorted(sections(StackConfig))))
        key = draw(st.sampled_from([*aliases(model_at(StackConfig, [section])), "password"]))
        values[section] = draw(st.sampled_from([{key: value}, {key: [value]}, value]))
    elif place == "key":
        values["keys"][0][
            draw(st.sampled_from(["name", "hash", "scope", "agents", "origins", "rate", "key"]))
        ] = value
    elif place == "ice":
        server = {"urls": ["turn:turn.example"], "username": "me", "credential": "x"}
        values["iceServers"] = [{**server, draw(st.sampled_from([*server, "password"])): value}]
    else:
        values["agents"]["echo"][f"switchbord {secret}"] = 1
    return values, secret


@given(misplaced())
def test_no_refusal_shows_a_secret(found: tuple[dict[str, Any], str]) -> None:
    values, secret = found
    said = faults(values)
    assert secret not in said
    assert secret.lower() not in said.lower()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"agents": {"echo": {"bot": BOT, "env": ["OPENAI_API_KEY=sk-1"]}}},
            'switchboard:agents.echo.env[0]: "OPENAI_API_KEY=…" is refused; allowed: the name of an '
            "environment "
            "variable (letters, digits and _), never a value",
        ),
        (
            {"agents": {"echo": {"bot": BOT, "env": {"OPENAI_API_KEY": "sk-1"}}}},
            "switchboard:agents.echo.env: a mapping has the wrong type; allowed: a list of names of "
            "environment "
            "variables",
        ),
        (
            {"agents": {"echo": {"bot": "https://me:hunter2@git.example/bot.py"}}},
            "switchboard:agents.echo.bot: 'https:…@git.example/bot.py' is not there (looked for "
            "…@git.example/bot.py); allowed: the path of a Python file with `async def bot(runner_args)`, "
            "absolute or "
            "from the checkout",
        ),
        (
            {
                "agents": {"echo": {"bot": BOT}},
                "keys": [{**KEY, "origins": ["https://me:hunter2@a.example"]}],
            },
            "switchboard:keys[0].origins[0]: 'https://…@a.example' is not a browser's origin; allowed: "
            "https://host or "
            "https://host:port",
        ),
        (
            {
                "agents": {"echo": {"bot": BOT}},
                "cloud": "docker",
                "docker": {"host": "ssh://me:hunter2@vm.example"},
            },
            'switchboard:docker.host: "ssh://…@vm.example" is refused; allowed: unix:///path/of/a/socket, or '
            "ssh://user@host or ssh://user@host:port with a port of 1 to 65535",
        ),
    ],
)
def test_a_refusal_shows_what_is_no_secret(values: dict[str, Any], said: str) -> None:
    assert faults(values) == said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("voice.example.com", "voice.example.com"),
        ("https://voice.example.com/path", "https://voice.example.com/path"),
        ("bots/customer-support/bot.py", "bots/customer-support/bot.py"),
        ("python:3.13-slim-trixie", "python:3.13-slim-trixie"),
        ("performance-16x", "performance-16x"),
        ("sk-or-v1-0", "…"),
    ],
)
def test_what_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


AGENT = {"echo": {"bot": BOT}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"agents": {"echo": {"bot": BOT, "transports": ["sip"]}}},
            'switchboard:agents.echo.transports[0]: "sip" is refused; allowed: a list of at least one of '
            "webrtc, daily, websocket",
        ),
        (
            {"cloud": "fly", "agents": AGENT, "keys": [KEY], "fly": {"regions": ["x"]}},
            'switchboard:fly.regions[0]: "x" is refused; allowed: a list of at least one region\'s code, '
            "such as "
            "[iad, lhr]",
        ),
        (
            {"cloud": "docker", "agents": AGENT, "docker": {"turnPorts": []}},
            "switchboard:docker.turnPorts: is missing; allowed: a list of the first and the last UDP port, "
            "1024 to "
            "65535, without 3478, at most 1000 ports",
        ),
        (
            {"agents": {"Echo!": {"bott": BOT}}},
            'switchboard:agents.Echo!: "Echo!" is refused; allowed: a name of a-z, 0-9 and -, at most 63 '
            "long, that "
            "begins and ends with a letter or digit",
        ),
        (
            {"agents": {"echo": {"bott": BOT}}},
            f"switchboard:agents.echo.bott: is not a key; allowed: {', '.join(aliases(AgentSettings))}",
        ),
        (
            {"agents": AGENT, "maxSessions": -1},
            'switchboard:maxSessions: "-1" is refused; allowed: a whole number, 0 to 1000000',
        ),
        (
            {"agents": AGENT, "daily.domain": "voice"},
            "switchboard:daily.domain: is not a key; allowed: `pulumi config set --path "
            "'switchboard:daily.domain'` "
            "for a key of a mapping; take this one out by `pulumi config rm 'switchboard:daily.domain'`",
        ),
        (
            {"cloud": "docker", "agents": AGENT, "docker": {"domain": "a.example", "address": "0.0.0.0"}},
            "switchboard:docker.address: is there, and so is domain; allowed: one of them, since Caddy has "
            "its own",
        ),
        (
            {"agents": AGENT, "turnUrls": ["turn:turn.example"]},
            "switchboard:turnSecret: is missing, and turnUrls is there; allowed: the static-auth-secret of "
            "these "
            "servers, by `pulumi config set --secret switchboard:turnSecret`",
        ),
        (
            {"agents": AGENT, "iceServers": [{"urls": ["turn:turn.example"], "username": "me"}]},
            "switchboard:iceServers[0].credential: is missing, and a server is TURN; allowed: the password "
            "of a TURN "
            "server, set by `pulumi config set --path --secret`",
        ),
        (
            {"agents": AGENT, "iceServers": [{"urls": ["http://turn.example"]}]},
            "switchboard:iceServers[0].urls[0]: is refused; allowed: a list of at least one stun:host:port, "
            "turn:host:port?transport=udp or turns:host:port",
        ),
        (
            {"agents": AGENT, "keepSessionsDays": 0.5},
            'switchboard:keepSessionsDays: "0.5" has the wrong type; allowed: a whole number, 1 to 3650',
        ),
        (
            {"agents": AGENT, "dataDir": 5},
            "switchboard:dataDir: 5 has the wrong type; allowed: the path of a directory, absolute or from "
            "the "
            "checkout (./5 for one that is called 5)",
        ),
        (
            {"cloud": "fly", "agents": AGENT, "keys": [KEY], "databaseUrl": "mysql://me:hunter2@db/x"},
            "switchboard:databaseUrl: allowed is a URL that begins with postgresql:// or "
            "postgresql+psycopg:// or "
            "sqlite:///, with %40, %2F and %3A for @, / and : in its password",
        ),
    ],
)
def test_one_fault_is_one_line_that_names_a_key(values: dict[str, Any], said: str) -> None:
    assert faults(values) == said


WRONG = ["x", 5, 1.5, True, None, [], {}, [1], ["x"], {"a": 1}, -1, 10**9, [None]]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_one_wrong_value_is_one_line(wrong: Any) -> None:
    # A webhook's secret alone lacks two keys, which are two faults.
    keys = [key for key in aliases(StackConfig) if key != "dailyWebhookSecret"]
    told = {key: faults({"agents": AGENT, key: wrong}) for key in keys}
    for section, model in (("docker", DockerConfig), ("fly", FlyConfig)):
        for key in aliases(model):
            values = {"cloud": section, "agents": AGENT, "keys": [KEY], section: {key: wrong}}
            told[f"{section}.{key}"] = faults(values)
    for key in aliases(AgentSettings):
        told[f"agents.echo.{key}"] = faults({"agents": {"echo": {"bot": BOT, key: wrong}}})
    for key, said in told.items():
        assert len(said.splitlines()) <= 1, key
        assert not said or said.startswith("switchboard:"), key
