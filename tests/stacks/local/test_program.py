"""`__main__.py` under Pulumi's mocks: which resources it describes, and what it exports."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.stacks.record import recorded

REPOSITORY = Path(__file__).resolve().parents[3]
AGENTS = {"echo": {"bot": "stacks/config.py", "env": ["A_KEY"]}, "a-bot": {"bot": "stacks/config.py"}}

ELSEWHERE = f"{tempfile.gettempdir()}/somewhere/else"


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "hunter2")


def run(by_environment: bool = False, **values: str) -> dict[str, Any]:
    given = {"agents": json.dumps(AGENTS), **values}
    config = {f"switchboard:{key}": value for key, value in given.items()}
    if by_environment:
        return recorded({}, {**os.environ, "PULUMI_CONFIG": json.dumps(config)})
    return recorded(config, os.environ)


def test_the_local_stack_is_two_resources() -> None:
    resources = run(port="28900", dataDir=ELSEWHERE)["resources"]
    machines, dispatcher = (resources.pop(name) for name in ("machines", "dispatcher"))
    assert {resource["type"] for resource in resources.values()} <= {"pulumi:pulumi:Stack"}
    assert machines["type"] == "pulumi-python:dynamic/switchboard:Machines"
    assert dispatcher["type"] == "pulumi-python:dynamic/switchboard:Dispatcher"
    inputs = dispatcher["inputs"]
    assert inputs["command"][1:] == ["-m", "dispatcher"]
    assert machines["inputs"]["stopCommand"] == [*inputs["command"], "stop-machines"]
    assert machines["inputs"]["environment"] == inputs["environment"]
    assert inputs["environment"]["SWITCHBOARD_DATA_DIR"] == f"{ELSEWHERE}/dispatcher"
    assert inputs["environment"]["SWITCHBOARD_PORT"] == "28900"
    assert inputs["environment"]["SWITCHBOARD_DEFAULT_AGENT"] == "a-bot"
    agents = json.loads(inputs["environment"]["SWITCHBOARD_AGENTS"])
    assert agents["echo"]["bot"] == str(REPOSITORY / "stacks" / "config.py")
    assert inputs["secretNames"] == ["A_KEY"]


def test_variables_that_are_not_set_here_are_refused_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"echo": {"bot": "stacks/config.py", "env": ["A_KEY", "SET", "B_KEY", "EMPTY"]}}
    monkeypatch.setenv("SET", "1")
    monkeypatch.setenv("EMPTY", "")
    for name in ("A_KEY", "B_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert run(agents=json.dumps(agents)) == {
        "error": "switchboard:agents.echo.env: not set here, or empty: A_KEY, B_KEY, EMPTY; allowed: the "
        "value in the environment, or UNSET=A_KEY,B_KEY,EMPTY (with pulumi: "
        "SWITCHBOARD_UNSET=A_KEY,B_KEY,EMPTY) to do without"
    }
    monkeypatch.setenv("SWITCHBOARD_UNSET", "A_KEY, B_KEY EMPTY")
    assert "resources" in run(agents=json.dumps(agents))
    monkeypatch.setenv("B_KEY", "set")
    assert run(agents=json.dumps(agents)) == {
        "error": "UNSET: B_KEY: set here, so the bots would get it; allowed: without it in UNSET, "
        "or without it in the environment (unset B_KEY)"
    }
    monkeypatch.setenv("SWITCHBOARD_UNSET", "A_KEY=sk-hunter2 sk-hunter2")
    assert run(agents=json.dumps(agents)) == {
        "error": "UNSET: A_KEY=…, …: no agent's env names it; allowed: A_KEY, B_KEY, EMPTY, SET"
    }


def test_the_outputs() -> None:
    outputs = run(port="28900", dataDir=ELSEWHERE)["outputs"]
    start = outputs.pop("start")
    assert start.startswith("curl --fail-with-body -X POST http://127.0.0.1:28900/start ")
    assert "Authorization" not in start, "nobody is asked for a key here"
    what = "a machine of your own, which costs what it costs without sessions too"
    price_of_ones_own = {"usdPerSecond": 0.0, "of": what}
    assert outputs == {
        "url": "http://127.0.0.1:28900",
        "log": f"{ELSEWHERE}/dispatcher.log",
        "data": ELSEWHERE,
        "prices": dict.fromkeys(("echo", "a-bot"), price_of_ones_own),
    }


def test_the_program_describes_the_same_each_time() -> None:
    assert run() == run()


def test_the_command_lines_config_gives_the_same_as_the_drivers() -> None:
    """The language host of `pulumi up` hands the config over in the environment."""
    assert run(by_environment=True, port="28900") == run(port="28900")


def test_a_bad_value_is_an_error_without_a_traceback() -> None:
    assert run(port="0") == {"error": 'switchboard:port: "0" is refused; allowed: a whole number, 1 to 65535'}


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_secret_in_clear_is_refused_in_a_run_of_pulumi_itself(by_environment: bool) -> None:
    """The engine says which keys are encrypted: `make up` by a call, the language host by a variable."""
    config = {
        "switchboard:agents": json.dumps(AGENTS),
        "switchboard:turnUrls": '["turn:turn.example:3478"]',
        "switchboard:turnSecret": "hunter2-of-turn",
        "switchboard:iceServers": json.dumps(
            [{"urls": ["turn:t.example"], "username": "me", "credential": "hunter2-of-ice"}]
        ),
    }

    def described(encrypted: list[str]) -> dict[str, Any]:
        if not by_environment:
            return recorded(config, os.environ, encrypted)
        given = {"PULUMI_CONFIG": json.dumps(config), "PULUMI_CONFIG_SECRET_KEYS": json.dumps(encrypted)}
        return recorded({}, {**os.environ, **given})

    refused = described(encrypted=[])["error"].splitlines()
    assert [line.partition("; allowed")[0] for line in refused] == [
        f"{key}: is in clear in the config of stack local, and would be in the state"
        for key in ("switchboard:turnSecret", "switchboard:iceServers[0].credential")
    ]
    assert "`pulumi config set --secret 'switchboard:turnSecret' --stack local`" in refused[0]
    assert "`pulumi config set --path --secret 'switchboard:iceServers[0].credential'" in refused[1]
    assert "hunter2" not in "".join(refused)
    assert "resources" in described(encrypted=["switchboard:turnSecret", "switchboard:iceServers"])


def test_the_program_is_short() -> None:
    assert len((REPOSITORY / "__main__.py").read_text().splitlines()) < 40
