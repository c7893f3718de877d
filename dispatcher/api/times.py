"""Times as clients read them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(time: float) -> str:
    """Return Unix seconds as RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")


def maybe_iso(time: float | None) -> str | None:
    """Return the time as `iso` does; None stays None."""
    return None if time is None else iso(time)
