"""Daily's description of its API: whether a call and its answer are well-formed.

`openapi.json` beside it has the names and types of what we call, and says where they are from.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openapi_schema_validator import OAS30Validator

DESCRIPTION = json.loads((Path(__file__).parent / "openapi.json").read_text())


class IllFormed(Exception):
    """A call or an answer that the description does not know."""


def check_call(method: str, path: str, body: Any) -> None:
    """Raises: IllFormed."""
    operation = _operation(method, path)
    described = operation.get("requestBody")
    if described is not None:
        _check(f"{operation['operationId']} body", _schema(described), body)
    elif body is not None:
        raise IllFormed(f"{operation['operationId']} takes no body")


def check_answer(method: str, path: str, status: int, body: Any) -> None:
    """Raises: IllFormed."""
    operation = _operation(method, path)
    where = f"{operation['operationId']} {status}"
    described = operation["responses"].get(str(status))
    if described is None:
        raise IllFormed(f"{where}: no such answer")
    _check(where, _schema(described), body)


def _operation(method: str, path: str) -> Mapping[str, Any]:
    for template, methods in DESCRIPTION["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) and method.lower() in methods:
            return methods[method.lower()]
    raise IllFormed(f"no operation {method} {path}")


def _schema(described: Mapping[str, Any]) -> str:
    return json.dumps(described["content"]["application/json"]["schema"])


def _check(where: str, schema: str, value: Any) -> None:
    for error in _validator(schema).iter_errors(value):
        place = ".".join(str(part) for part in error.absolute_path)
        raise IllFormed(f"{where}: {place or 'all of it'}: {error.message}")


@functools.cache
def _validator(schema: str) -> Any:
    return OAS30Validator({**json.loads(schema), "components": DESCRIPTION["components"]})
