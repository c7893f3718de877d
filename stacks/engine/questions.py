"""A workspace and a stack of the Automation API that ask the engine only what is needed: each question is a
process."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pulumi.automation import LocalWorkspace, OutputMap, OutputValue, Stack, UpdateSummary
from pulumi.automation._stack import StackInitMode


class FewQuestions(LocalWorkspace):
    """A workspace whose caller may know already that the stack is there.

    Args:
        known: The stack's state was seen. `pulumi stack select` would find out nothing; every command of the
            Automation API names its stack.
    """

    def __init__(self, *, known: bool, **options: Any) -> None:
        self._known = known
        super().__init__(**options)

    def select_stack(self, stack_name: str) -> None:
        if not self._known:
            super().select_stack(stack_name)

    def stack_outputs(self, stack_name: str) -> OutputMap:
        """Return the outputs, each marked secret: a second question would tell which are, and nobody asks."""
        command = ["stack", "output", "--json", "--show-secrets", "--stack", stack_name]
        found = json.loads(self._run_pulumi_cmd_sync(command).stdout)
        return {name: OutputValue(value=value, secret=True) for name, value in found.items()}


class QuietStack(Stack):
    """A stack that does not ask for the history's last entry after every run."""

    @classmethod
    def of(cls, name: str, workspace: FewQuestions) -> QuietStack:
        """Return the stack; make it if it is not there."""
        # `Stack.create_or_select` makes a `Stack`, whatever class it is called on.
        return cls(name, workspace, StackInitMode.CREATE_OR_SELECT)

    def info(self, show_secrets: bool = True) -> UpdateSummary:
        """Return an empty summary. The Automation API adds it to each run's result, where nobody reads it."""
        return UpdateSummary("", datetime.fromtimestamp(0, UTC), "", {}, {}, "")
