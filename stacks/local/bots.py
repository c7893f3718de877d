"""The bots' machines on this host: where they are kept, and their end.

The dispatcher makes and ends machines, and no state knows them. But whatever happens to the dispatcher
(killed, lost from the state by a refresh), the end of the stack is the end of its machines. So this
resource is there before the dispatcher and goes after it.
"""

from __future__ import annotations

import subprocess
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

from stacks.errors import ProcessError
from stacks.local.dispatcher import DATA_DIR_VARIABLE, environment_of, find
from stacks.shared import process
from stacks.shared.dynamic import end_with_engine, plain_errors
from stacks.stateful import other_cloud

INPUTS = ("command", "stopCommand", "cwd", "environment", "secrets", "stopTimeoutSeconds")


class MachinesProvider(ResourceProvider):
    """Make the directory; at the end, stop what lives in it."""

    # It holds nothing but its own name.
    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse to take the place of another cloud's machines."""
        elsewhere = bool(_olds) and "environment" not in _olds
        return CheckResult(news, [CheckFailure("", other_cloud("local"))] if elsewhere else [])

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        directory = _directory(props)
        # It will hold the store and the key that signs the machines' tokens.
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return CreateResult(str(directory), {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        moved = str(_directory(_olds)) != str(_directory(_news))
        return DiffResult(
            changes=any(_olds.get(key) != _news.get(key) for key in INPUTS),
            replaces=["environment"] if moved else [],
        )

    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        # Only how the machines are to be stopped has changed.
        return UpdateResult({key: _news[key] for key in INPUTS})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        return ReadResult(id_, props) if _directory(props).is_dir() else ReadResult("", {})

    @plain_errors
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        # A dispatcher that no state knows would go on starting machines.
        for identity in find(_props):
            process.stop(identity, _props["stopTimeoutSeconds"])
        if _directory(_props).is_dir():
            stop_machines(_props)


class Machines(Resource, module="switchboard", name="Machines"):
    """The machines of a stack that are processes of this host."""

    def __init__(
        self,
        name: str,
        *,
        command: Sequence[str],
        stop_command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        secrets: Mapping[str, str],
        stop_timeout_seconds: float = 60,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """`command`, `environment` and `secrets` are the dispatcher's; `stop_command`, which reads the same
        settings, stops every machine of it."""
        properties: dict[str, Any] = {
            "command": list(command),
            "stopCommand": list(stop_command),
            "cwd": str(cwd),
            "environment": dict(environment),
            "secrets": pulumi.Output.secret(dict(secrets)),
            "stopTimeoutSeconds": stop_timeout_seconds,
        }
        super().__init__(MachinesProvider(), name, properties, opts)


def stop_machines(props: Mapping[str, Any]) -> None:
    """Run the command that stops every machine. Raises ProcessError with what it said."""
    seconds = props["stopTimeoutSeconds"]
    try:
        result = subprocess.run(
            props["stopCommand"],
            cwd=props["cwd"],
            env=environment_of({**props, "secretNames": []}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProcessError(f"the machines were not stopped within {seconds:.0f} s") from None
    except OSError as error:
        raise ProcessError(f"{props['stopCommand'][0]} cannot be run: {error.strerror}") from error
    if result.returncode:
        said = "\n".join((result.stdout + result.stderr).strip().splitlines()[-20:])
        raise ProcessError(f"the machines could not be stopped (exit code {result.returncode}):\n{said}")


def _directory(props: Mapping[str, Any]) -> Path:
    return Path(props["environment"][DATA_DIR_VARIABLE])
