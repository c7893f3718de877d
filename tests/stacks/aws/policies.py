"""An evaluator of IAM policies, for the operators that the stack's statements use.

From the IAM user guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition operators": an
explicit Deny wins, then an Allow, then the request is refused. All conditions of a statement must hold; of
the values of one key, any. An operator that is not known here is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """A call that is to be allowed or not."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)
    """Condition keys; ones that are absent are absent in the request."""


def allows(statements: Sequence[Mapping[str, Any]], request: Request) -> bool:
    """Return True if the statements allow the request."""
    matching = [one["Effect"] for one in statements if _matches(one, request)]
    return "Deny" not in matching and "Allow" in matching


def _matches(statement: Mapping[str, Any], request: Request) -> bool:
    return (
        any(_like(one, request.action, ignore_case=True) for one in _listed(statement["Action"]))
        and any(_like(one, request.resource) for one in _listed(statement["Resource"]))
        and all(
            _holds(operator, request.context.get(key), _listed(values))
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, given: str | None, allowed: Iterable[str]) -> bool:
    if operator.endswith("IfExists"):
        if given is None:
            return True
        operator = operator.removesuffix("IfExists")
    if given is None:
        return False
    if operator in ("ArnEquals", "ArnLike"):
        return any(_arn_like(one, given) for one in allowed)
    if operator == "StringEquals":
        return given in list(allowed)
    if operator == "StringLike":
        return any(_like(one, given) for one in allowed)
    if operator == "Bool":
        return any(one.lower() == given.lower() for one in allowed)
    raise AssertionError(f"the operator {operator} is not evaluated here")


def _arn_like(pattern: str, arn: str) -> bool:
    """Compare the six parts of ARNs one by one: a wildcard does not reach over a colon of the first five."""
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) and all(map(_like, patterns, parts))


def _like(pattern: str, text: str, ignore_case: bool = False) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.DOTALL | (re.IGNORECASE if ignore_case else 0)) is not None


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
