"""Trim Google's discovery documents to what the fakes answer.

    python -m tests.gcp.trim DIRECTORY

The directory has `compute.v1.json` and `run.v2.json`, as google-api-python-client packs them under
`googleapiclient/discovery_cache/documents/`. Descriptions are dropped, but for the mark `[Output Only]`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEPT = {
    "compute.v1.json": (
        "compute.instanceTemplates.get",
        "compute.instances.delete",
        "compute.instances.get",
        "compute.instances.getGuestAttributes",
        "compute.instances.insert",
        "compute.instances.list",
        "compute.instances.resume",
        "compute.instances.suspend",
        "compute.regionInstanceTemplates.get",
        "compute.zoneOperations.get",
        "compute.zoneOperations.wait",
    ),
    "run.v2.json": (
        "run.projects.locations.jobs.run",
        "run.projects.locations.jobs.executions.cancel",
        "run.projects.locations.jobs.executions.delete",
        "run.projects.locations.jobs.executions.get",
        "run.projects.locations.jobs.executions.list",
        "run.projects.locations.jobs.executions.tasks.list",
        "run.projects.locations.operations.get",
        "run.projects.locations.operations.wait",
    ),
}
OUTPUT_ONLY = "[Output Only]"
DROPPED = {"description", "enumDescriptions", "scopes", "enumDeprecated", "annotations"}


def methods(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every method of a discovery document."""
    yield from document.get("methods", {}).values()
    for resource in document.get("resources", {}).values():
        yield from methods(resource)


def trimmed(document: Mapping[str, Any], kept: tuple[str, ...]) -> dict[str, Any]:
    """Return a document with the methods of these ids, and the schemas that they reach."""
    found = {method["id"]: _plain(method) for method in methods(document) if method["id"] in kept}
    assert set(found) == set(kept), f"no such methods: {set(kept) - set(found)}"
    schemas: dict[str, Any] = {}
    waiting = sorted(_references(list(found.values())))
    while waiting:
        name = waiting.pop()
        if name not in schemas:
            schemas[name] = _plain(document["schemas"][name])
            waiting += sorted(_references(schemas[name]))
    names = ("id", "revision", "rootUrl", "servicePath", "parameters")
    return {
        **{name: _plain(document[name]) for name in names},
        "methods": dict(sorted(found.items())),
        "schemas": dict(sorted(schemas.items())),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    made = {name: _plain(one) for name, one in value.items() if not (name in DROPPED and _is_text(one))}
    said = value.get("description")
    if value.get("readOnly") is True or (isinstance(said, str) and said.startswith(OUTPUT_ONLY)):
        made["readOnly"] = True
    return made


def _is_text(value: Any) -> bool:
    """Return True for a description; a member may be called so, too."""
    return not isinstance(value, dict)


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return {name for one in value for name in _references(one)}
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own | {name for one in value.values() for name in _references(one)}


if __name__ == "__main__":
    for file, kept in KEPT.items():
        given = json.loads((Path(sys.argv[1]) / file).read_text())
        (HERE / file).write_text(json.dumps(trimmed(given, kept), indent=1, sort_keys=True) + "\n")
