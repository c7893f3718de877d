"""The findings of a refresh: a line for each resource that is gone, or is not as the state has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pulumi.automation.events import StepEventMetadata

from stacks.engine.differences import changed
from stacks.engine.report import HIDDEN_TYPES, Report, name_of, operation

FOUND_DRIFT = 2
"""Exit status of `drift` that has found any: 1 is an error's."""


class Drift(Report):
    """Collects the events of a refresh, or of the preview of one."""

    def __init__(self, out: Callable[[str], None]) -> None:
        super().__init__(out=out)

    def _begin(self, step: StepEventMetadata) -> None:
        """Nothing is known before a provider was asked."""

    def _end(self, step: StepEventMetadata) -> None:
        op = operation(step)
        if step.type.startswith(HIDDEN_TYPES) or op not in ("delete", "update"):
            return
        self._steps[step.urn] = op
        if op == "delete":
            self._out(f"  - {name_of(step.urn)}: found gone")
            return
        lines = changed(_outputs(step.old), _outputs(step.new)) or ["a secret has another value"]
        self._out(f"  ~ {name_of(step.urn)}: found changed: {'; '.join(lines)}")


def _outputs(state: Any) -> Mapping[str, Any]:
    return (state.outputs or {}) if state else {}
