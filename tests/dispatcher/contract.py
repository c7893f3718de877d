"""Holds every answer that a test gets against the OpenAPI document: its status, its media type, its body."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema.protocols import Validator
from openapi_schema_validator import OAS31Validator

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


@cache
def document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_text())


async def check(answer: httpx.Response) -> None:
    """Fails the test whose request got an answer that the document does not allow; an httpx event hook."""
    operation = _operation(answer.request.method.lower(), answer.request.url.path)
    if operation is None:
        return
    documented = operation["responses"].get(str(answer.status_code), operation["responses"].get("default"))
    place = f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"
    assert documented is not None, f"{place} is not in the OpenAPI document"
    documented = _resolved(documented)
    if "content" not in documented:
        return
    media_type = answer.headers["content-type"].partition(";")[0]
    if "default" in operation["responses"] and media_type not in documented["content"]:
        return  # the bot may answer with any status, in its own form
    assert media_type in documented["content"], f"{place} with {media_type} is not in the OpenAPI document"
    if media_type.endswith("json"):
        await answer.aread()
        _validator(json.dumps(documented["content"][media_type]["schema"])).validate(answer.json())


def _operation(method: str, path: str) -> dict[str, Any] | None:
    """The operation of the most literal path that matches, as the app chooses."""
    found = [
        operations[method]
        for pattern, operations in document()["paths"].items()
        if method in operations and re.fullmatch(_expression(pattern), path)
    ]
    return found[0] if found else None


@cache
def _expression(pattern: str) -> str:
    return re.sub(r"\{\w+\}", "[^/]+", pattern.replace("{path}", ".*"))


def _resolved(item: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in item:
        return item
    found: Any = document()
    for part in item["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


@cache
def _validator(schema: str) -> Validator:
    return OAS31Validator({**json.loads(schema), "components": document()["components"]})
