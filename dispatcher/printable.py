"""Text that is safe to print. Only the standard library is imported here: a stack's program reads it at each
run."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Line ends, escape codes, and characters that change the writing direction."""


def escaped(text: str) -> str:
    """Return the text on one line without control characters, so that a bot's output cannot forge a
    log line."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
