"""Run `__main__.py` under Pulumi's mocks, and tell what it describes.

Each run is a process of its own: the mocks set the SDK's global state, and leave event loops open in its
threads. These processes are forked from one that has imported all that programs need, which takes ten times
as long as a program.
"""

from __future__ import annotations

import json
import logging
import os
import runpy
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime import mocks, set_all_config
from pulumi.runtime.settings import get_root_resource
from pulumi.runtime.stack import Stack

from stacks.secret_keys import SECRET_KEYS
from tests.forked import preload, run_forked

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60.0

preload("__main__", "stacks.docker.program", "stacks.fly.program", "stacks.local.program", __name__)

# What dynamic resources make up, by their types.
MADE_UP = {
    "pulumi-python:dynamic/switchboard:PageKey": {"key": "pk_recorded", "hash": f"sha256:{'1' * 64}"},
    "pulumi-python:dynamic/switchboard:SharedSecret": {"value": "recorded-secret-of-256-bits-or-more"},
    "pulumi-python:dynamic/switchboard:FlyDeployToken": {"token": "FlyV1 fm2_recorded"},
    "pulumi-python:dynamic/switchboard:FlySecrets": {"version": 3},
    "pulumi-python:dynamic/switchboard:FlyCertificate": {"records": ["voice.example.com A 192.0.2.1"]},
}


class Recorder(mocks.Mocks):
    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        assert args.name not in self.resources, f"{args.name} is there twice"
        self.resources[args.name] = {"type": args.typ, "inputs": args.inputs}
        made: dict[str, Any] = dict(MADE_UP.get(args.typ, {}))
        if args.typ == "pulumi-python:dynamic/switchboard:AllowedImages":
            made |= args.inputs["wanted"]
        if args.typ == "docker:index/network:Network":
            made["ipamConfigs"] = [{"subnet": "172.20.0.0/16", "gateway": "172.20.0.1"}]
        if args.typ == "docker-build:index:Image":
            made["ref"] = f"{args.name}@sha256:{'0' * 64}"
        return f"{args.name}-id", {**args.inputs, **made}

    def call(self, args: mocks.MockCallArgs) -> Any:
        raise AssertionError(f"the program calls {args.token}")


class Warnings(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


def record(config: dict[str, str], encrypted: list[str]) -> dict[str, Any]:
    recorder = Recorder()
    warnings: list[str] = []
    logger = logging.Logger("engine")
    logger.addHandler(Warnings(warnings))
    mocks.set_mocks(recorder, project="switchboard", stack="local", logger=logger)
    set_all_config(config, encrypted)
    outputs: dict[str, Any] = {}

    @pulumi.runtime.test
    def program() -> None:
        runpy.run_path(str(REPOSITORY / "__main__.py"), run_name="switchboard_program")
        # `set_mocks` has made the stack; nothing registers the outputs that the program gives it.
        stack = get_root_resource()
        assert isinstance(stack, Stack)
        for name, value in stack.outputs.items():
            pulumi.Output.all(name, value).apply(lambda found: outputs.update({found[0]: found[1]}))

    try:
        program()
    except pulumi.RunError as error:
        return {"error": str(error)}
    return {"resources": recorder.resources, "outputs": outputs, "warnings": warnings}


def recorded(
    config: Mapping[str, str], environment: Mapping[str, str], encrypted: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the program's resources, as JSON has them, in a process with this environment.

    Without a config it is that of the environment, PULUMI_CONFIG, as under the language host.

    Args:
        encrypted: Keys that the engine calls secret; by default those that must be.
    """
    if encrypted is None:
        encrypted = [key for key in config if key.partition(":")[2] in (*SECRET_KEYS, "iceServers")]
    return json.loads(
        run_forked(_recorded, dict(config), dict(environment), list(encrypted), seconds=SECONDS)
    )


def _recorded(config: dict[str, str], environment: dict[str, str], encrypted: list[str]) -> str:
    os.environ.clear()
    os.environ.update(environment)
    return json.dumps(record(config, encrypted))
