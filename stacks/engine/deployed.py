"""A stack as the engine knows it: its state and config, and changes of its state by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pulumi import automation
from pulumi.automation import Stack
from pulumi.automation.errors import CommandError

from stacks import clouds
from stacks.engine.report import clean
from stacks.engine.workspace import Workspace
from stacks.errors import EngineError
from stacks.stateful import Resource, State

T = TypeVar("T")
STATE_VERSION = 3
"""Version of the format of exported states (apitype.DeploymentSchemaVersionCurrent of the engine)."""


class Deployed:
    """One stack, as its engine knows it. Each method raises EngineError with what the engine said."""

    def __init__(self, stack: Stack, workspace: Workspace) -> None:
        self._stack = stack
        self._workspace = workspace

    def state(self) -> State:
        return State(self._asked(self._stack.export_stack).deployment or {}, clouds.data_types())

    def values(self) -> Mapping[str, str]:
        """Return the config as a program gets it; what is encrypted in it, the engine decrypts."""
        if self._workspace.values is not None:
            return self._workspace.values
        found = self._asked(self._stack.get_all_config)
        return {name: value.value for name, value in found.items()}

    def release(self, resources: Iterable[Resource]) -> None:
        """Take the marks of what holds data off, in the state as it is now."""
        if released := list(resources):
            self._import(self.state().unmarked(released))

    def forget_outputs(self) -> None:
        """Let the stack tell nothing: what it told is not up any more."""
        self._import(self.state().without_outputs())

    def _import(self, deployment: Mapping[str, Any]) -> None:
        state = automation.Deployment(version=STATE_VERSION, deployment=dict(deployment))
        self._asked(lambda: self._stack.import_stack(state))

    def _asked(self, command: Callable[[], T]) -> T:
        try:
            return command()
        except CommandError as error:
            raise EngineError(self._workspace.explained(command_error(error))) from None


def command_error(error: CommandError) -> str:
    """Return what the engine's command line said on its error output, without the dump around it."""
    text = str(error).rpartition("stderr:")[2]
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    return "\n".join(lines) or "the engine failed without a word"
