"""The dispatcher's process, as a resource in the engine's state.

The engine's own process for dynamic providers calls the provider's methods. It must find this class by
name, so nothing here may be defined in a program's `__main__`. The provider has no fields: what it
needs is in the resource's properties, which come back from state as JSON (whole numbers as floats).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)
from pulumi.runtime import rpc

from stacks.local import server
from stacks.local.server import Server
from stacks.shared import process
from stacks.shared.dynamic import end_with_engine, plain_errors
from stacks.shared.environment import USER_PATH_VARIABLE, tracing_names
from stacks.shared.outside import refusals_of_removal
from stacks.shared.process import Identity

DATA_DIR_VARIABLE = "SWITCHBOARD_DATA_DIR"
# What a program needs to find its interpreter's libraries, its home and its language. The rest of the
# environment of whoever runs the engine (their tokens, the engine's own variables) stays with them.
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")

INPUTS = (
    "command",
    "cwd",
    "environment",
    "secrets",
    "secretNames",
    "secretFingerprint",
    "code",
    "logFile",
    "host",
    "port",
    "startTimeoutSeconds",
    "stopGraceSeconds",
)


class DispatcherProvider(ResourceProvider):
    """Start, watch, restart and stop the process."""

    # It holds nothing but its own name.
    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse, in preview and before anything is touched, a taken port and a run without a variable that
        the dispatcher has."""
        host, port = news["host"], int(news["port"])
        failures = []
        if not process.port_free(host, port):
            ours = find(news, _olds)
            if not any(process.listens(one.pid, port) for one in ours):
                failures.append(CheckFailure("port", server.port_taken(port)))
        outside = news.get("outside") or {}
        failures += refusals_of_removal(_taken(_olds), _taken(news), outside, "the dispatcher")
        return CheckResult(news, failures)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        changed = any(_plain(_olds.get(key)) != _plain(_news.get(key)) for key in INPUTS)
        if not changed:
            # After a reboot the state still names a process that is gone. An up must not call that unchanged.
            changed = not server.healthy(_identity(_olds), _news["host"], int(_news["port"]))
        return DiffResult(changes=changed)

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        # Left by a run that was killed before it could write its state.
        for identity in find(props):
            process.stop(identity, props["stopGraceSeconds"])
        return CreateResult("dispatcher", _start(props))

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        _stop(_olds, _news)
        return UpdateResult(_start(_news))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult(id_, props) if process.alive(_identity(props)) else ReadResult("", {})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        _stop(_props)


class Dispatcher(Resource, module="switchboard", name="Dispatcher"):
    """The dispatcher's process on this host. `pid` and `started` say which one it is."""

    pid: pulumi.Output[int]
    started: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        secrets: Mapping[str, str],
        secret_names: Sequence[str],
        secret_fingerprint: str,
        code: str,
        outside: Mapping[str, str],
        log_file: Path,
        host: str,
        port: int,
        start_timeout_seconds: float = 30,
        stop_grace_seconds: float = 15,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`environment` is kept in state as it is, and must hold no secret; `secrets`, further variables, are
        kept encrypted. Of the variables `secret_names` the values are taken, when the process starts, from
        the environment of whoever runs the engine. `outside`: those among both that come from there, in the
        form of `refusals_of_removal`."""
        if DATA_DIR_VARIABLE not in environment:
            raise ValueError(f"environment needs {DATA_DIR_VARIABLE}: the process is found again by it")
        properties: dict[str, Any] = {
            "command": list(command),
            "cwd": str(cwd),
            "environment": dict(environment),
            "secrets": pulumi.Output.secret(dict(secrets)),
            "secretNames": list(secret_names),
            "secretFingerprint": pulumi.Output.secret(secret_fingerprint),
            "code": code,
            "outside": dict(outside),
            "logFile": str(log_file),
            "host": host,
            "port": port,
            "startTimeoutSeconds": start_timeout_seconds,
            "stopGraceSeconds": stop_grace_seconds,
            "pid": None,
            "started": None,
        }
        super().__init__(DispatcherProvider(), name, properties, opts)


def find(*properties: Mapping[str, Any]) -> list[Identity]:
    """The running dispatchers of this data directory, whether a state knows them or not."""
    sets = [props for props in properties if props and "command" in props]
    if not sets:
        return []
    return process.find(
        [props["command"] for props in sets], DATA_DIR_VARIABLE, sets[0]["environment"][DATA_DIR_VARIABLE]
    )


def _start(props: Mapping[str, Any]) -> dict[str, Any]:
    """Start the process of these inputs; the outputs that name it."""
    identity = server.start(
        Server(
            command=props["command"],
            cwd=Path(props["cwd"]),
            environment=environment_of(props),
            log=Path(props["logFile"]),
            host=props["host"],
            port=int(props["port"]),
            start_timeout_seconds=props["startTimeoutSeconds"],
            stop_grace_seconds=props["stopGraceSeconds"],
        )
    )
    # The engine marks an output as secret again when the input of the same name is.
    return {**{key: props[key] for key in INPUTS}, "pid": identity.pid, "started": identity.started}


def _stop(*properties: Mapping[str, Any]) -> None:
    """Stop the process of the first properties, and whatever else runs for the same data directory."""
    grace = properties[0]["stopGraceSeconds"]
    for identity in {_identity(properties[0]), *find(*properties)}:
        process.stop(identity, grace)


def environment_of(props: Mapping[str, Any]) -> dict[str, str]:
    """The whole environment of the process."""
    names = (*PASSED_ON, *props["secretNames"], *tracing_names())
    passed = {name: os.environ[name] for name in names if name in os.environ}
    if USER_PATH_VARIABLE in os.environ:
        passed["PATH"] = os.environ[USER_PATH_VARIABLE]
    # A state that an earlier release wrote has no `secrets`.
    return {**passed, **props["environment"], **(props.get("secrets") or {})}


def _taken(props: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that the process gets beside its settings; of some, only their names are kept."""
    secrets = _plain(props.get("secrets"))
    return {**dict.fromkeys(props.get("secretNames") or ()), **(secrets or {})}


def _identity(props: Mapping[str, Any]) -> Identity:
    return Identity(int(props["pid"]), props["started"])


def _plain(value: Any) -> Any:
    return rpc.unwrap_rpc_secret(value)
