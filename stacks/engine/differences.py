"""A resource's inputs as lines of a plan: each value of a new one, and what differs of one that is there."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pulumi.runtime import rpc

from stacks.plan.graph import SECRET

LONGEST = 100
"""Characters of a value that are shown; a digest of an image with its name has more."""

SECRET_MARK = "4dabf18193072939515e22adb298388d"  # noqa: S105 - the engine's, of a value that is wrapped

UNKNOWN = "known after apply"
ABSENT = "–"

VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
NUMBERS = re.compile(r"(\d+)")

Leaves = dict[str, str]
"""Path → value, as it is shown."""


def listed(inputs: Mapping[str, Any]) -> list[str]:
    """Return `path: value` for each input."""
    return [f"{path}: {shortened(value)}" for path, value in flat(_own(inputs), inline=True).items()]


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return `path: before → after` for each value that differs."""
    old, new = flat(_own(before)), flat(_own(after))
    new = _named(old, new)
    # A collection that is unknown as a whole: each of its values is.
    whole = [path for path, value in new.items() if value == UNKNOWN and path not in old]
    for path in whole:
        if lost := [one for one in old if one not in new and _within(one, path)]:
            del new[path]
            new |= dict.fromkeys(lost, UNKNOWN)
    paths = sorted({*old, *new}, key=_natural)
    return [
        f"{path}: {_pair(old.get(path, ABSENT), new.get(path, ABSENT))}"
        for path in paths
        if old.get(path) != new.get(path)
    ]


def flat(value: Any, path: str = "", inline: bool = False) -> Leaves:
    """Return nested values as one level: `a.b[0]`, and `a[NAME]` in a list of `NAME=value`.

    Text that is JSON is nested too. With `inline` a short list is one value.
    """
    if isinstance(value, str) and value.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, Mapping) and (value or not path) and SECRET_MARK not in value:
        parts = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, Sequence) and value and not isinstance(value, str):
        if inline and len(short := _text(value)) <= LONGEST and not _variables(value):
            return {path: short}
        parts = _elements(value, path)
    else:
        return {path: _text(value)}
    result: Leaves = {}
    for inner_path, inner in parts:
        short = _text(inner)
        if inline and isinstance(inner, Mapping) and inner_path.endswith("]") and len(short) <= LONGEST:
            result[inner_path] = short
        else:
            result |= flat(inner, inner_path, inline)
    return result


def shortened(text: str, start: int = 0) -> str:
    """Return at most `LONGEST` characters of it, from `start` on."""
    if len(text) <= LONGEST:
        return text
    start = max(0, min(start, len(text) - LONGEST + 1))
    before = "…" if start else ""
    room = LONGEST - len(before)
    rest = text[start:]
    return before + (rest if len(rest) <= room else f"{rest[: room - 1]}…")


def _pair(before: str, after: str) -> str:
    """Return both values; where they are long, from a little before their first difference."""
    same = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), 0)
    return f"{shortened(before, same - 20)} → {shortened(after, same - 20)}"


def _own(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return them without the engine's own (`__provider`, `__internal`)."""
    return {key: value for key, value in inputs.items() if not key.startswith("__")}


def _text(value: Any) -> str:
    if value == rpc.UNKNOWN:
        return UNKNOWN
    if isinstance(value, str):
        return value if value and value.isprintable() else json.dumps(value)
    if isinstance(value, Mapping):
        if SECRET_MARK in value:
            return SECRET
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_text(inner) for inner in value) + "]"
    return json.dumps(value)


def _variables(elements: Sequence[Any]) -> bool:
    """Return whether they are `NAME=value`, except for those that the engine does not show."""
    shown = [one for one in elements if _text(one) not in (SECRET, UNKNOWN)]
    return bool(shown) and all(isinstance(one, str) and VARIABLE.fullmatch(one) for one in shown)


def _elements(elements: Sequence[Any], path: str) -> list[tuple[str, Any]]:
    if not _variables(elements):
        return [(f"{path}[{index}]", inner) for index, inner in enumerate(elements)]
    result, hidden = [], {SECRET: 0, UNKNOWN: 0}
    for inner in elements:
        text = _text(inner)
        if text in hidden:
            # By a number of their own: one variable more does not move them.
            hidden[text] += 1
            result.append((f"{path}[{'secret' if text == SECRET else 'unknown'} {hidden[text]}]", inner))
        else:
            name, _, variable = str(inner).partition("=")
            result.append((f"{path}[{name}]", variable))
    return result


def _named(old: Leaves, new: Leaves) -> Leaves:
    """Return the new values with the names of variables that are unknown, where the old ones tell them."""
    result = dict(new)
    for of in {path.rpartition("[unknown ")[0] for path in new if "[unknown " in path}:
        unknown = [path for path in new if path.startswith(f"{of}[unknown ")]
        before, now = _names(old, of), _names(new, of)
        missing = [name for name in before if name not in now and not name.startswith("secret ")]
        if len(missing) == len(unknown):
            for path, name in zip(unknown, missing, strict=True):
                result[f"{of}[{name}]"] = result.pop(path)
    return result


def _names(leaves: Leaves, of: str) -> list[str]:
    found = [path.removeprefix(f"{of}[").partition("]")[0] for path in leaves if path.startswith(f"{of}[")]
    return list(dict.fromkeys(found))


def _within(path: str, collection: str) -> bool:
    return path.startswith((f"{collection}.", f"{collection}["))


def _natural(path: str) -> list[tuple[bool, int, str]]:
    """Return a key that sorts `a[2]` before `a[10]`."""
    return [
        (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in NUMBERS.split(path) if part
    ]
