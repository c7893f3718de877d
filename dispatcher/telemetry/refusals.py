"""Under which outcome a start counts that was refused before there was a session."""

from __future__ import annotations

from dispatcher.sessions.errors import (
    AtCapacity,
    InvalidRequest,
    KeyReused,
    RateExceeded,
    Restarting,
    SessionError,
    UnknownAgent,
)

OUTCOMES: dict[type[SessionError], str] = {
    AtCapacity: "at_capacity",
    InvalidRequest: "invalid",
    KeyReused: "key_reused",
    RateExceeded: "rate_limited",
    Restarting: "draining",
    UnknownAgent: "unknown_agent",
}

STORE_DOWN = "store_down"


def outcome(error: SessionError) -> str | None:
    """None if the error is about a session: its end counts then."""
    return next((OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES), None)
