"""Fly's answers, parsed alike by the dispatcher's client and by the stacks'."""

from __future__ import annotations

THROTTLED = ("resource_exhausted: rate limit", "rate limit exceeded")
"""Texts with which Fly at times throttles under another status than 429."""


def throttles(status: int, words: str) -> bool:
    """Return True if Fly asks to call again later."""
    return status == 429 or (status >= 400 and any(sign in words.lower() for sign in THROTTLED))
