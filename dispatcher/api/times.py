"""Times as clients read them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(time: float) -> str:
    """Unix seconds as RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def maybe_iso(time: float | None) -> str | None:
    """The same for what may not have happened yet."""
    return None if time is None else iso(time)
