"""The shape of Google's answers: one of another shape says nothing, and is as good as none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from dispatcher.machines.provider import Unreachable


class Item(TypedDict, total=False):
    """An entry of metadata, or a guest attribute."""

    key: str
    value: str


class _Metadata(TypedDict, total=False):
    items: list[Item]


class _Properties(TypedDict, total=False):
    metadata: _Metadata


class _Template(TypedDict, total=False):
    name: str
    properties: _Properties


class _GuestAttributes(TypedDict, total=False):
    queryValue: _Metadata


class _Instance(TypedDict, total=False):
    name: str
    status: str
    labels: dict[str, str]
    creationTimestamp: str


class _Instances(TypedDict, total=False):
    items: list[_Instance]
    nextPageToken: str


class _OperationError(TypedDict, total=False):
    code: str
    message: str


class _OperationErrors(TypedDict, total=False):
    errors: list[_OperationError]


class _NamedOperation(TypedDict):
    name: str


class _Operation(_NamedOperation, total=False):
    status: str
    targetLink: str
    error: _OperationErrors


class _Variable(TypedDict, total=False):
    name: str
    value: str


class _Container(TypedDict, total=False):
    env: list[_Variable]


class _TaskTemplate(TypedDict, total=False):
    containers: list[_Container]


class _Condition(TypedDict, total=False):
    type: str
    state: str
    reason: str
    executionReason: str
    message: str


class _NamedExecution(TypedDict):
    name: str


class _Execution(_NamedExecution, total=False):
    createTime: str
    startTime: str
    completionTime: str
    deleteTime: str
    runningCount: int
    succeededCount: int
    failedCount: int
    cancelledCount: int
    conditions: list[_Condition]
    template: _TaskTemplate


class _Executions(TypedDict, total=False):
    executions: list[_Execution]
    nextPageToken: str


class _Attempt(TypedDict, total=False):
    exitCode: int
    termSignal: int


class _Task(TypedDict, total=False):
    lastAttemptResult: _Attempt


class _Tasks(TypedDict, total=False):
    tasks: list[_Task]


TEMPLATE: TypeAdapter[Any] = TypeAdapter(_Template)
GUEST_ATTRIBUTES: TypeAdapter[Any] = TypeAdapter(_GuestAttributes)
INSTANCE: TypeAdapter[Any] = TypeAdapter(_Instance)
INSTANCES: TypeAdapter[Any] = TypeAdapter(_Instances)
OPERATION: TypeAdapter[Any] = TypeAdapter(_Operation)
EXECUTION: TypeAdapter[Any] = TypeAdapter(_Execution)
EXECUTIONS: TypeAdapter[Any] = TypeAdapter(_Executions)
TASKS: TypeAdapter[Any] = TypeAdapter(_Tasks)


def shaped(shape: TypeAdapter[Any], answer: Any, what: str) -> Mapping[str, Any]:
    """Return the members of an answer that are read.

    Args:
        what: The thing that was asked for, for the error.

    Raises:
        Unreachable: One has another type, or lacks: nothing is known.
    """
    try:
        return shape.validate_python(answer, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise Unreachable(f"{what} is not as Google documents it: {where}: {first['msg']}") from None
