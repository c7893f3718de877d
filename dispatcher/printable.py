"""Text that is safe to print. Only the standard library is imported here: a stack's program reads it at each
run."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Line ends, escape codes, and what turns the direction of writing."""


def escaped(text: str) -> str:
    """Return the text on one line, with nothing in it that a terminal obeys: a bot's words must forge no
    line."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
