"""`__main__.py` under Pulumi's mocks: which resources it describes, and what it exports."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.runtime import mocks, set_all_config
from pulumi.runtime.settings import get_root_resource
from pulumi.runtime.stack import Stack

REPOSITORY = Path(__file__).resolve().parents[2]
AGENTS = {"echo": {"bot": "stacks/config.py", "env": ["A_KEY"]}, "a-bot": {"bot": "stacks/config.py"}}


class Recorder(mocks.Mocks):
    def __init__(self) -> None:
        self.resources: dict[str, mocks.MockResourceArgs] = {}
        self.outputs: dict[str, Any] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.resources[args.name] = args
        return f"{args.name}-id", dict(args.inputs)

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise AssertionError(f"the program calls {args.token}")


def run(**values: str) -> Recorder:
    recorder = Recorder()
    mocks.set_mocks(recorder, project="switchboard", stack="local")
    config = {"agents": json.dumps(AGENTS), **values}
    set_all_config({f"switchboard:{key}": value for key, value in config.items()})

    @pulumi.runtime.test
    def program() -> None:
        runpy.run_path(str(REPOSITORY / "__main__.py"), run_name="switchboard_program")
        # `set_mocks` has made the stack; nothing registers the outputs that the program gives it.
        stack = get_root_resource()
        assert isinstance(stack, Stack)
        recorder.outputs = dict(stack.outputs)

    program()
    return recorder


def test_the_local_stack_is_two_resources() -> None:
    recorder = run(port="28900", dataDir="/somewhere/else")
    machines, dispatcher = (recorder.resources.pop(name) for name in ("machines", "dispatcher"))
    assert {resource.typ for resource in recorder.resources.values()} <= {"pulumi:pulumi:Stack"}
    assert machines.typ == "pulumi-python:dynamic/switchboard:Machines"
    assert dispatcher.typ == "pulumi-python:dynamic/switchboard:Dispatcher"
    inputs = dispatcher.inputs
    assert inputs["command"][1:] == ["-m", "dispatcher"]
    assert machines.inputs["stopCommand"] == [*inputs["command"], "stop-machines"]
    assert machines.inputs["environment"] == inputs["environment"]
    assert inputs["environment"]["SWITCHBOARD_DATA_DIR"] == "/somewhere/else/dispatcher"
    assert inputs["environment"]["SWITCHBOARD_PORT"] == "28900"
    assert inputs["environment"]["SWITCHBOARD_DEFAULT_AGENT"] == "a-bot"
    agents = json.loads(inputs["environment"]["SWITCHBOARD_AGENTS"])
    assert agents["echo"]["bot"] == str(REPOSITORY / "stacks" / "config.py")
    assert inputs["secretNames"] == ["A_KEY"]


def test_the_outputs() -> None:
    assert run(port="28900", dataDir="/somewhere/else").outputs == {
        "url": "http://127.0.0.1:28900",
        "logFile": "/somewhere/else/dispatcher.log",
        "dataDir": "/somewhere/else",
    }


def test_the_program_describes_the_same_each_time() -> None:
    first, second = run(), run()
    for name in ("machines", "dispatcher"):
        assert first.resources[name].inputs == second.resources[name].inputs


def test_a_bad_value_is_an_error_without_a_traceback() -> None:
    with pytest.raises(pulumi.RunError) as caught:
        run(port="0")
    assert str(caught.value) == 'switchboard:port: "0" is refused; allowed: a whole number, 1 to 65535'


def test_the_program_is_short() -> None:
    assert len((REPOSITORY / "__main__.py").read_text().splitlines()) < 40
