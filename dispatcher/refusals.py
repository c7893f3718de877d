"""Refused settings in words: the value as given, and the allowed ones."""

from __future__ import annotations

import re
from typing import Any

from pydantic_core import ErrorDetails

from dispatcher.keys import NAME_PATTERN, NAME_WORDS

LONGEST_SHOWN = 60
MAY_BE_SECRET = re.compile(r"key|secret|token|password|url|ice_servers|arguments|env|hash")
"""Names of settings whose values are never shown: refusals are logged."""


def in_words(fault: ErrorDetails) -> str:
    """Return what is wrong with the value at its place, without the place: `'Web' is refused; allowed: …`."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] in ("value_error", "missing", "extra_forbidden"):
        # A check of ours says what is allowed; other faults concern the key, not its value.
        return message
    if (fault.get("ctx") or {}).get("pattern") == NAME_PATTERN:
        allowed = NAME_WORDS
    else:
        allowed = re.sub(
            r"^(Input should be|(String|Value|List|Tuple|Dictionary) should( have)?) ", "", message
        )
        allowed = re.sub(r", unable to parse .*", "", allowed)
    return f"{_shown(fault)}is refused; allowed: {allowed}"


def _shown(fault: ErrorDetails) -> str:
    value: Any = fault.get("input")
    # For a faulty key of a mapping, the location ends with pydantic's `[key]`.
    place = [str(part).lower() for part in fault["loc"] if part != "[key]"]
    if not isinstance(value, (str, int, float)) or any(MAY_BE_SECRET.search(part) for part in place):
        return ""
    text = repr(value)
    return f"{text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + '…'} "
