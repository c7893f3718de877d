"""Outcomes of starts that were refused before there was a session."""

from __future__ import annotations

from dispatcher.domain.errors import (
    AtCapacity,
    DiskFull,
    InvalidRequest,
    KeyReused,
    NoImage,
    NotStarted,
    RateExceeded,
    Restarting,
    SessionError,
    StartFailed,
    UnknownAgent,
)

OUTCOMES: dict[type[SessionError], str] = {
    AtCapacity: "at_capacity",
    DiskFull: "disk_full",
    NoImage: "no_images",
    InvalidRequest: "invalid",
    KeyReused: "key_reused",
    RateExceeded: "rate_limited",
    Restarting: "draining",
    UnknownAgent: "unknown_agent",
}

ROOMS = frozenset({"room_rejected", "room_throttled", "room_unreachable"})
"""Reasons for which a start gets no room, also before there is a session."""

THROTTLED = "throttled"

STORE_DOWN = "store_down"


def outcome(error: SessionError) -> str | None:
    """Return the outcome; None if the error is about a session, whose end is counted."""
    if isinstance(error, (NotStarted, StartFailed)) and (error.code in ROOMS or error.code == THROTTLED):
        return error.code
    return next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), None)
