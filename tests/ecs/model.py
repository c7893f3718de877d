"""Requests, answers and errors against the AWS SDK's model of ECS."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

COMMON_ERRORS = frozenset(
    {"ThrottlingException", "AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"}
)
"""Those that any operation of any AWS service may answer with: "Common Errors" of the API reference."""


@cache
def service() -> Any:
    """Return the model; untyped, for the SDK types its properties as descriptors."""
    return ServiceModel(Loader().load_service_model("ecs", "service-2"), "ecs")


def operation(target: str) -> Any:
    """Return the operation of an `X-Amz-Target`."""
    prefix, _, name = target.partition(".")
    assert prefix == service().metadata["targetPrefix"], f"no such target: {target}"
    return service().operation_model(name)


def problems(shape: Any, value: Any) -> list[str]:
    """Return what is wrong with a request or answer: types, members, and words that are none of an enum's."""
    if shape is None:
        return []
    report = ParamValidator().validate(value, shape)
    found = [report.generate_report()] if report.has_errors() else []
    return found + list(_wrong_words(shape, value, shape.name))


def error_is_known(operation: Any, code: str) -> bool:
    return code in COMMON_ERRORS or code in {shape.name for shape in operation.error_shapes}


def wire(value: Any) -> Any:
    """Return an answer as JSON has it: moments are seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, dict):
        return {name: wire(one) for name, one in value.items()}
    return [wire(one) for one in value] if isinstance(value, list) else value


def moment(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)


def _wrong_words(shape: Any, value: Any, path: str) -> Iterator[str]:
    if value is None:
        return
    if shape.type_name == "structure":
        for name, one in value.items():
            if name in shape.members:
                yield from _wrong_words(shape.members[name], one, f"{path}.{name}")
            else:
                yield f"{path}: there is no member {name}"
    elif shape.type_name == "list":
        for one in value:
            yield from _wrong_words(shape.member, one, f"{path}[]")
    elif shape.type_name == "map":
        for one in value.values():
            yield from _wrong_words(shape.value, one, f"{path}{{}}")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path}: {value!r} is none of {shape.enum}"
