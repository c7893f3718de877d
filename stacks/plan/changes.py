"""The plan's first section: what changes, against what is deployed or against another revision.

What is deployed only an engine knows. Its preview runs in another process: the SDK has one state for each,
which the recording of the stack's program takes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stacks.engine.options import NEVER_UP
from stacks.engine.report import HOLDS_DATA, PlannedStep, rank
from stacks.plan.base import Change
from stacks.plan.document import NOTHING, Section, Table

SECONDS = 900.0
"""Longest time that the engine's preview may take; a refresh of a large state takes minutes."""

DEPLOYED = "what is deployed"

KINDS = ("create", "update", "replace", "delete")


@dataclass(frozen=True)
class Row:
    """A resource that changes."""

    change: str
    kind: str
    name: str
    data: str
    """Words for the data that goes; empty: none does."""
    inputs: Sequence[str]


@dataclass(frozen=True)
class Changes:
    """What changes, and against what."""

    rows: Sequence[Row]
    against: str
    """Words for what it is compared with."""
    compared: bool = True
    """False if nothing is deployed, as far as is known here."""
    notes: Sequence[str] = ()
    error: str = ""
    """Words of an engine that could not tell all of it, or refuses."""
    status: int = 0
    """Exit status of the engine's preview."""


def against_revision(revision: str, found: Sequence[Change], holding: Collection[str]) -> Changes:
    """Return the changes against a revision of the repository.

    Args:
        holding: Logical names of resources that hold data, and type tokens of those that do.
    """
    rows = []
    for change in found:
        one = change.resource
        holds = one.protected or one.name in holding or one.type in holding
        lost = HOLDS_DATA if change.kind != "create" and holds else ""
        rows.append(Row(change.kind, one.kind, one.name, lost, change.inputs))
    note = (
        "A provider may carry out an update as a replacement: the engine's preview of a stack that is up "
        "says which."
    )
    return Changes(_ordered(rows), revision, notes=[note])


def against_deployed(checkout: Path, stack: str, options: Sequence[str]) -> Changes:
    """Return the changes against what is deployed, as the engine's preview tells them.

    Args:
        options: Of the command line, for the engine's run.
    """
    command = [sys.executable, "-m", "stacks.engine", "preview", "--json", "--stack", stack, *options]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    try:
        run = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return Changes(
            (), DEPLOYED, error=f"the engine's preview does not end within {SECONDS:g} s", status=1
        )
    if run.returncode == NEVER_UP:
        note = "No state of this stack is here: as far as is known, `make up` creates all that is below."
        return Changes((), DEPLOYED, compared=False, notes=[note])
    said = run.stderr.strip().splitlines()
    error = next((line for line in reversed(said) if line.startswith("error: ")), "")
    told: dict[str, Any] = json.loads(run.stdout or '{"steps": [], "notes": []}')
    if run.returncode and not error:
        error = (said or ["the engine's preview fails without a word"])[-1]
    rows = [_row(PlannedStep(**one)) for one in told["steps"]]
    return Changes(
        _ordered(rows),
        DEPLOYED,
        notes=told["notes"],
        error=error.removeprefix("error: "),
        status=run.returncode,
    )


def section(changes: Changes) -> Section:
    """Return the plan's section."""
    rows = [
        (one.change, one.kind, one.name, one.data or NOTHING, "; ".join(one.inputs) or NOTHING)
        for one in changes.rows
    ]
    notes = list(changes.notes)
    if changes.error:
        notes.insert(0, f"Against {changes.against}: not all of it is known. {changes.error}")
    elif changes.compared:
        counts = ", ".join(f"{sum(one.change == kind for one in changes.rows)} to {kind}" for kind in KINDS)
        notes.insert(0, f"Against {changes.against}: {counts}.")
    table = Table(("change", "kind", "name", "data", "inputs"), rows, grouped=True)
    return Section("What changes", table if changes.compared else None, notes)


def _row(step: PlannedStep) -> Row:
    data = f"{HOLDS_DATA}: {step.data}" if step.data else ""
    return Row(step.op, step.type.rpartition(":")[2], step.name, data, step.inputs)


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """Sort: what loses data comes first, then what else is deleted or replaced."""
    return sorted(rows, key=lambda one: rank(one.change, one.data))
