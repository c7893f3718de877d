"""What a user sees of the engine's run: a line per resource that changes, and what went wrong."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from pulumi.automation.events import DiagnosticEvent, EngineEvent, StepEventMetadata

from stacks.progress import duration, say

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
# How the program's runtime, the host of dynamic providers and gRPC wrap what a program or a provider raised.
WRAPPINGS = re.compile(
    r"^(error: )?(an unhandled error occurred: )?(Exception calling application: )?(stacks(\.\w+)+: )?"
)
# The error beside it says why; and that our own launcher is found on PATH is what we want.
WITHOUT_NEWS = ("update failed", "preview failed")
EXPECTED_WARNINGS = ("using pulumi-resource-pulumi-python from $PATH",)
UNCHANGING = {"same", "refresh", "read"}
# What the engine shows in the place of a secret, whatever its value.
SECRET_VALUE = "[secret]"  # noqa: S105


class Report:
    """Collects the engine's events and says what they mean."""

    def __init__(self, preview: bool = False, out: Callable[[str], None] = say) -> None:
        self.preview = preview
        self.errors: list[str] = []
        self.changes = 0
        self._out = out
        self._began: dict[str, float] = {}

    def __call__(self, event: EngineEvent) -> None:
        if event.resource_pre_event:
            self._begin(event.resource_pre_event.metadata)
        elif event.res_outputs_event:
            self._end(event.res_outputs_event.metadata)
        elif event.diagnostic_event:
            self._diagnose(event.diagnostic_event)

    def _begin(self, step: StepEventMetadata) -> None:
        self._began[step.urn] = time.monotonic()
        op = str(getattr(step.op, "value", step.op))
        if self.preview and op not in UNCHANGING and not step.type.startswith(HIDDEN_TYPES):
            self.changes += 1
            self._out(f"  {VERBS.get(op, ('*', op))[0]} {name_of(step.urn)}: {op}")
            for line in differences(step):
                self._out(f"      {line}")

    def _end(self, step: StepEventMetadata) -> None:
        op = str(getattr(step.op, "value", step.op))
        if self.preview or op in UNCHANGING or step.type.startswith(HIDDEN_TYPES):
            return
        self.changes += 1
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


def clean(message: str) -> str:
    """A diagnostic without colours and without the names of the layers that it came through."""
    text = COLOR_MARKS.sub("", message).strip()
    text = WRAPPINGS.sub("", text)
    failed = re.match(r"\S+ resource '(\S+)' has a problem: (.*)", text, re.DOTALL)
    return failed[2] if failed else text


def name_of(urn: str) -> str:
    return urn.rsplit("::", 1)[-1]


def differences(step: StepEventMetadata) -> list[str]:
    """`environment.SWITCHBOARD_PORT: 7860 → 7861`, for each input that changes."""
    old: Mapping[str, Any] = step.old.inputs if step.old and step.old.inputs else {}
    new: Mapping[str, Any] = step.new.inputs if step.new and step.new.inputs else {}
    if not old or not new:
        return []
    before, after = flat(old), flat(new)
    if lines := changed(before, after):
        return lines
    # The program wants what it wanted: what is there is another than it was left.
    seen = step.old.outputs if step.old and step.old.outputs else {}
    found = changed(flat({key: value for key, value in seen.items() if key in new}), after)
    if found:
        return [f"{line}, as it was" for line in found]
    unseen = "a secret has another value, or " if any(SECRET_VALUE in text for text in after.values()) else ""
    return [f"{unseen}the process is not running, or does not answer"]


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """`port: 7860 → 7861`, for each key that differs; the engine's own left out."""
    return [
        f"{key}: {before.get(key, '–')} → {after.get(key, '–')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key) and not key.startswith("__")
    ]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """A nested mapping as one level, with the keys joined by dots; a mapping that is written as JSON too."""
    if isinstance(value, str) and value.startswith("{"):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, dict):
        return {path: str(value)}
    result: dict[str, str] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{path}.{key}" if path else str(key))
    return result
