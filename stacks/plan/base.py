"""Changes of a stack against another revision of the repository: both programs are recorded and compared."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stacks.engine.differences import changed
from stacks.errors import ConfigError
from stacks.plan.graph import Graph, Resource

SECONDS = 120.0
"""Longest time that the other revision's program may take."""


@dataclass(frozen=True)
class Change:
    """A resource that differs."""

    kind: str
    """`delete`, `replace`, `create` or `update`, which a provider may carry out as a replacement."""
    resource: Resource
    inputs: Sequence[str] = ()
    """Of an update: `path: before → after` for each input."""


ORDER = ("delete", "replace", "update", "create")
"""What may lose something comes first."""


def exported(graph: Graph, checkout: Path) -> str:
    """Return a graph as JSON, for another revision to compare with. Paths are from the checkout."""
    text = json.dumps([asdict(one) for one in graph])
    return text.replace(sys.prefix, "./.venv").replace(str(checkout), ".")


def imported(graph: str, project: str, stack: str) -> Graph:
    """Return the graph of `exported`."""
    return Graph(project, stack, [Resource(**one) for one in json.loads(graph)])


def graph_at(checkout: Path, ref: str, stack: str) -> tuple[str, Graph | None]:
    """Record a stack as a revision describes it.

    Returns:
        The revision's commit, and its graph; None if the revision does not have the stack.

    Raises:
        ConfigError: There is no such revision, or it cannot be recorded.
    """
    commit = _git(checkout, ref, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").decode().strip()
    if not _git(checkout, ref, "ls-tree", "--name-only", commit, "stacks/plan/base.py"):
        raise ConfigError(f"BASE: {ref!r} ({commit[:10]}) has no plan to compare with; allowed: a later one")
    with tempfile.TemporaryDirectory(prefix="switchboard-base-") as directory:
        with tarfile.open(
            fileobj=io.BytesIO(_git(checkout, ref, "archive", "--format=tar", commit))
        ) as files:
            files.extractall(directory, filter="data")
        there = Path(directory)
        if not (there / "stacks" / f"Pulumi.{stack}.yaml").exists():
            return commit, None
        return commit, _recorded(there, ref, stack)


def changes(before: Graph | None, after: Graph) -> list[Change]:
    """Return the resources that differ, those that may lose something first."""
    old = {one.name: one for one in before or ()}
    new = {one.name: one for one in after}
    found = [Change("delete", one) for name, one in old.items() if name not in new]
    for name, one in new.items():
        was = old.get(name)
        if was is None:
            found.append(Change("create", one))
        elif was.type != one.type:
            found.append(Change("replace", one, [f"type: {was.type} → {one.type}"]))
        elif lines := _differences(was, one):
            found.append(Change("update", one, lines))
    return sorted(found, key=lambda one: (ORDER.index(one.kind), one.resource.component, one.resource.name))


def _differences(before: Resource, after: Resource) -> list[str]:
    found = changed(_compared(before), _compared(after))
    # A label of the image, of the last commit: the other revision is here without its history.
    return [line for line in found if not line.startswith("buildArgs.REVISION:")]


def _compared(resource: Resource) -> Mapping[str, Any]:
    marks = {"protected": resource.protected, "retained": resource.retained}
    return {**resource.inputs, **marks}


def _recorded(checkout: Path, ref: str, stack: str) -> Graph:
    command = [sys.executable, "-m", "stacks.plan", "--stack", stack, "--format", "graph"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    try:
        run = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"BASE: the program of {ref!r} does not end within {SECONDS:g} s") from None
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no word"])[-1]
        raise ConfigError(f"BASE: the program of {ref!r} fails: {last}")
    return imported(run.stdout, "", stack)


def _git(checkout: Path, ref: str, *arguments: str) -> bytes:
    try:
        run = subprocess.run(
            ["git", *arguments],  # noqa: S607 - the user's own
            cwd=checkout,
            capture_output=True,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"BASE: git does not run: {error}") from None
    if run.returncode:
        raise ConfigError(
            f"BASE: {ref!r} is no revision of this repository; allowed: a branch, tag or commit"
        )
    return run.stdout
