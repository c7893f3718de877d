"""The user's view of the engine's run: a line per resource that changes, and what went wrong."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pulumi.automation.events import DiagnosticEvent, EngineEvent, StepEventMetadata

from stacks.engine.differences import changed, flat, listed
from stacks.plan.graph import SECRET
from stacks.progress import NOTICE, duration, say

VERBS = {
    "create": ("+", "created"),
    "update": ("~", "updated"),
    "delete": ("-", "deleted"),
    "replace": ("±", "replaced"),
    "create-replacement": ("+", "created anew"),
    "delete-replaced": ("-", "deleted, the old one"),
    "refresh": ("?", "looked up"),
}
# Of the engine's own kinds of resource nobody wants to read.
HIDDEN_TYPES = ("pulumi:pulumi:Stack", "pulumi:providers:")
COLOR_MARKS = re.compile(r"<\{%[^%]*%\}>|\x1b\[[0-9;]*m")
# Words that gRPC and the engine's hosts of programs and dynamic providers put before an error. The engine
# tells a program's error twice: as the program has logged it, and as the program's end.
WRAPPINGS = re.compile(
    r"^(error: )?(an unhandled error occurred: )?(Exception calling application: )?(stacks(\.\w+)+: )?"
)
# The error beside it says why; and that our own launcher is found on PATH is what we want.
WITHOUT_NEWS = ("update failed", "preview failed")
EXPECTED_WARNINGS = ("using pulumi-resource-pulumi-python from $PATH",)
UNCHANGING = {"same", "refresh", "read"}
PARTS_OF = {"create-replacement": "replace", "delete-replaced": "replace"}
TOTALLED = ("create", "update", "replace", "delete")
LOSING = ("delete", "replace")
HOLDS_DATA = "HOLDS DATA"
# A resource of the cloud local: its diff looks at the process too, and no input shows what it finds.
PROCESS_TYPE = "pulumi-python:dynamic/switchboard:Dispatcher"


@dataclass(frozen=True)
class PlannedStep:
    """A step that an up would take with a resource."""

    op: str
    """`create`, `update`, `replace` or `delete`."""
    type: str
    name: str
    keys: Sequence[str]
    """Inputs because of which."""
    data: str
    """Words for the data that goes; empty: none does."""
    inputs: Sequence[str]
    """`path: before → after` for each input that differs."""

    @property
    def lines(self) -> list[str]:
        because = f", because of {', '.join(self.keys)}" if self.keys else ""
        lost = f", {HOLDS_DATA}: {self.data}" if self.data else ""
        line = f"  {VERBS.get(self.op, ('*', self.op))[0]} {self.name}: {self.op}{because}{lost}"
        return [line, *(f"      {one}" for one in self.inputs)]


def rank(op: str, data: str) -> tuple[bool, int]:
    """Return the place of a step among others: data that goes first, then what is deleted or replaced."""
    loses = op in LOSING
    return not (data and loses), LOSING.index(op) if loses else len(LOSING)


class Report:
    """Collects the engine's events and says what they mean.

    Args:
        preview: Nothing is made. The steps are told at the run's end: what loses something first.
        data: URN → words for the data, of resources that hold any.
    """

    def __init__(
        self,
        preview: bool = False,
        out: Callable[[str], None] = say,
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.preview = preview
        self._data = data or {}
        self._planned: list[PlannedStep] = []
        self._told = False
        self.errors: list[str] = []
        self._out = out
        self._began: dict[str, float] = {}
        self._steps: dict[str, str] = {}
        """URN → what becomes of the resource."""

    @property
    def changes(self) -> int:
        """Number of resources that change."""
        return sum(op not in UNCHANGING for op in self._steps.values())

    def __call__(self, event: EngineEvent) -> None:
        if event.resource_pre_event:
            self._begin(event.resource_pre_event.metadata)
        elif event.res_outputs_event:
            self._end(event.res_outputs_event.metadata)
        elif event.diagnostic_event:
            self._diagnose(event.diagnostic_event)
        elif event.summary_event and self.preview:
            self.tell_planned()
            if self.changes:
                self._out(f"  {self.total()}")

    @property
    def planned(self) -> Sequence[PlannedStep]:
        """Steps of a preview in order of what they lose: data first."""
        return sorted(self._planned, key=lambda one: rank(one.op, one.data))

    def tell_planned(self) -> None:
        """Say the steps of a preview, unless they were said."""
        for line in () if self._told else [line for one in self.planned for line in one.lines]:
            self._out(line)
        self._told = True

    def total(self) -> str:
        """Return `3 to create, 1 to update, 0 to replace, 0 to delete, 12 unchanged`."""
        counts = Counter(self._steps.values())
        unchanged = sum(counts[op] for op in UNCHANGING)
        return ", ".join([*(f"{counts[op]} to {op}" for op in TOTALLED), f"{unchanged} unchanged"])

    def _begin(self, step: StepEventMetadata) -> None:
        self._began[step.urn] = time.monotonic()
        if not self.preview or step.type.startswith(HIDDEN_TYPES):
            return
        op = operation(step)
        whole = PARTS_OF.get(op, op)
        self._steps[step.urn] = whole
        if op in UNCHANGING or op != whole:
            return
        data = self._data.get(step.urn, "") if op in LOSING else ""
        self._planned.append(
            PlannedStep(op, step.type, name_of(step.urn), step.keys or (), data, differences(step))
        )

    def _end(self, step: StepEventMetadata) -> None:
        op = operation(step)
        if self.preview or step.type.startswith(HIDDEN_TYPES):
            return
        self._steps[step.urn] = PARTS_OF.get(op, op)
        if op in UNCHANGING:
            return
        sign, verb = VERBS.get(op, ("*", op))
        now = time.monotonic()
        took = now - self._began.get(step.urn, now)
        self._out(f"  {sign} {name_of(step.urn)} {verb} ({duration(took)})")

    def _diagnose(self, event: DiagnosticEvent) -> None:
        text = clean(event.message)
        if event.severity == "error" and text not in (*self.errors, *WITHOUT_NEWS):
            self.errors.append(text)
        elif event.severity == "warning" and not text.startswith(EXPECTED_WARNINGS):
            self._out(f"  warning: {text}")
        elif text.startswith(NOTICE):
            self._out(f"  {text}")


def clean(message: str) -> str:
    """A diagnostic without colours and without the names of the layers that it came through."""
    text = COLOR_MARKS.sub("", message).strip()
    text = WRAPPINGS.sub("", text)
    failed = re.match(r"\S+ resource '(\S+)' has a problem: (.*)", text, re.DOTALL)
    return failed[2] if failed else text


def operation(step: StepEventMetadata) -> str:
    return str(getattr(step.op, "value", step.op))


def name_of(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


def differences(step: StepEventMetadata) -> list[str]:
    """Return a line for each input that a step sets or changes, and for what else makes it due."""
    old: Mapping[str, Any] = step.old.inputs if step.old and step.old.inputs else {}
    new: Mapping[str, Any] = step.new.inputs if step.new and step.new.inputs else {}
    if not old or not new:
        return listed(new)
    # A list is hidden as a whole where one of its elements is secret: only its provider sees what differs.
    hidden = [
        f"{key}: {SECRET} → {SECRET}, with another value"
        for key in step.diffs or ()
        if flat(old.get(key)) == flat(new.get(key)) == {"": SECRET}
    ]
    if lines := changed(old, new) + hidden:
        return lines
    # The program wants what it wanted, so what is there differs. Not every input is an output too.
    seen: Mapping[str, Any] = step.old.outputs if step.old and step.old.outputs else {}
    both = new.keys() & seen.keys()
    found = changed({key: seen[key] for key in both}, {key: new[key] for key in both})
    return [f"{line}, as it was" for line in found] or [unseen(step, new)]


def unseen(step: StepEventMetadata, inputs: Mapping[str, Any]) -> str:
    """Return why a step is due of which the inputs show nothing."""
    causes = []
    if SECRET in flat(inputs).values():
        causes.append("a secret has another value")
    if step.type == PROCESS_TYPE:
        causes.append("the process is not running, or does not answer")
    return ", or ".join(causes) or "its provider finds another state than it was left in"
