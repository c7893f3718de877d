"""Strict parsing of a request's parts: anything that two parsers might read differently is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class Refused(Exception):
    """The provider makes no such request; the text names the difference."""

    def __init__(self, reason: str, status: int = 403) -> None:
        super().__init__(reason)
        self.status = status


def read_query(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=8
        )
    except ValueError:
        raise Refused("the query cannot be read", 400) from None
    if len(dict(pairs)) < len(pairs):
        raise Refused("a parameter of the query occurs twice", 400)
    return dict(pairs)


def read_json(text: str | bytes) -> Any:
    """Return the JSON value.

    Raises:
        Refused: it is not JSON that all parsers read alike.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, value in pairs:
            if name in members:
                raise Refused(f"{name[:100]!r}: occurs twice", 400)
            members[name] = value
        return members

    def no_number(word: str) -> NoReturn:
        raise Refused(f"{word} is not JSON", 400)

    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=distinct, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON", 400) from None


def member(given: Any, name: str, kind: type) -> Any:
    value = given.get(name) if isinstance(given, dict) else None
    if type(value) is not kind:
        raise Refused(f"{name}: is missing or of another type", 400)
    return value


def texts(given: Any, name: str) -> list[str]:
    values = member(given, name, list)
    if not all(isinstance(value, str) for value in values):
        raise Refused(f"{name}: is not a list of texts", 400)
    return values


def within(value: int, most: int, where: str) -> int:
    if not 0 < value <= most:
        raise Refused(f"{where}: {value} is refused; allowed: 1 to {most}")
    return value


def number(query: Mapping[str, str], name: str, most: int) -> str:
    value = query.get(name, "")
    if not NUMBER.fullmatch(value) or int(value) > most:
        raise Refused(f"{name}: {value[:100]!r} is refused; allowed: 0 to {most}")
    return value


def only(query: Mapping[str, str], names: set[str]) -> None:
    if other := sorted(set(query) - names):
        raise Refused(f"{other[0][:100]!r}: is not a parameter of the provider's")


def nothing_in(query: Mapping[str, str], content: bytes = b"") -> None:
    only(query, set())
    if content:
        raise Refused("this call has no body")
