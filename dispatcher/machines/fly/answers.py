"""Fly's answers, read alike by the dispatcher's client and by the stacks'."""

from __future__ import annotations

THROTTLED = ("resource_exhausted: rate limit", "rate limit exceeded")
"""Words with which Fly throttles under another status than 429 at times."""


def throttles(status: int, words: str) -> bool:
    """Return True if Fly asks to call again later."""
    return status == 429 or (status >= 400 and any(sign in words.lower() for sign in THROTTLED))
