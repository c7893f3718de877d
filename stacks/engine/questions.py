"""A workspace of the Automation API that asks the engine only what is needed: each question is a process."""

from __future__ import annotations

import json
from typing import Any

from pulumi.automation import LocalWorkspace, OutputMap, OutputValue


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
