"""Fly's description of its API: which operation a call is, and whether it and its answer are well-formed."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS30Validator

DESCRIPTION = Path(__file__).parent / "openapi.json"
PREFIX = "/v1"

ERROR = {"$ref": "#/components/schemas/ErrorResponse"}

# Where the wire is not as it is described.
STATUS_CODES = ["unknown", "insufficient_capacity", "volume_placement_capacity", "name_taken"]
"""Values of an error's `status`: fly-go/flaps/flaps_error.go knows two more than the description."""
IN_AN_ENVELOPE = ("Machines_create_lease", "Machines_show_lease", "Machines_release_lease")
"""These answer `{"status": "success", "data": …}`: so says the documentation of the Machines resource, and so
does fly-go read it."""
SHOWN_OF_MACHINES = {"cordoned": {"type": "boolean"}}
"""Fly's API shows this of a cordoned machine, and the description does not have it."""
FILTERS = re.compile(r"metadata\.[A-Za-z0-9_.-]+")
"""Query parameters of a list, in the documentation and not in the description."""


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    id: str
    method: str
    path: re.Pattern[str]
    described: Mapping[str, Any]


class IllFormed(Exception):
    """A request or an answer that the description does not know."""


class Spec:
    """The description, with every object closed: what it does not name is an error."""

    def __init__(self) -> None:
        document = json.loads(DESCRIPTION.read_text())
        self._components = _closed(document["components"])
        self._components["schemas"]["main.statusCode"]["enum"] = STATUS_CODES
        self._components["schemas"]["Machine"]["properties"] |= SHOWN_OF_MACHINES
        self.operations = tuple(_operations(document))

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation of a call, and the parameters in its path."""
        for operation in self.operations:
            if operation.method == method and (match := operation.path.fullmatch(path)):
                return operation, match.groupdict()
        return None

    def check_request(self, operation: Operation, query: Mapping[str, list[str]], body: Any) -> None:
        """Raises: IllFormed."""
        known = {one["name"]: one["schema"] for one in operation.described.get("parameters", [])}
        for name, values in query.items():
            if operation.id == "Machines_list" and FILTERS.fullmatch(name):
                continue
            if name not in known:
                raise IllFormed(f"{operation.id}: no parameter {name!r}")
            for value in ",".join(values).split(","):
                self._check(f"{operation.id} {name}", known[name], _typed(value, known[name]))
        described = operation.described.get("requestBody")
        if described is None:
            if body is not None:
                raise IllFormed(f"{operation.id}: takes no body")
        elif body is not None or described.get("required"):
            schema = described["content"]["application/json"]["schema"]
            self._check(f"{operation.id} body", schema, body)

    def check_answer(self, operation: Operation, status: int, body: Any) -> None:
        """Raises: IllFormed."""
        where = f"{operation.id} {status}"
        described = operation.described["responses"].get(str(status))
        if described is None:
            if status < 400:
                raise IllFormed(f"{where}: no such answer")
            self._check(where, ERROR, body)
            return
        content = described.get("content", {}).get("application/json")
        if content is None:
            return
        if status < 400 and operation.id in IN_AN_ENVELOPE:
            if set(body) != {"status", "data"}:
                raise IllFormed(f"{where}: not in its envelope")
            body = body["data"]
        self._check(where, content["schema"], body)

    def _check(self, where: str, schema: Mapping[str, Any], value: Any) -> None:
        validator = self._validator(json.dumps(schema, sort_keys=True))
        for error in validator.iter_errors(value):
            place = ".".join(str(part) for part in error.absolute_path)
            raise IllFormed(f"{where}: {place or 'all of it'}: {error.message}")

    @functools.cache  # noqa: B019 - one object lives as long as the tests do
    def _validator(self, schema: str) -> Any:
        return OAS30Validator({**json.loads(schema), "components": self._components})


@functools.cache
def spec() -> Spec:
    """Read once."""
    return Spec()


def _operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        pattern = re.compile(PREFIX + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
        for method, described in methods.items():
            yield Operation(described["operationId"], method.upper(), pattern, described)


def _closed(schema: Any) -> Any:
    """A copy in which no object has properties that are not named."""
    closed = copy.deepcopy(schema)
    waiting = [closed]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if isinstance(one.get("properties"), dict) and "type" in one:
                one.setdefault("additionalProperties", False)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return closed


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """A parameter's text as what it stands for, if it stands for anything."""
    if schema.get("type") == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if schema.get("type") == "boolean" and text in ("true", "false"):
        return text == "true"
    return text
