"""Names of Daily rooms, and the sessions that they belong to."""

from __future__ import annotations

import uuid

PREFIX = "switchboard-"
"""Prefix of the names of Switchboard's rooms."""


def room_name(session_id: str) -> str:
    return f"{PREFIX}{session_id}"


def session_of(name: str) -> str | None:
    """Return the session of a room; None for a room that is not Switchboard's."""
    try:
        session_id = str(uuid.UUID(name.removeprefix(PREFIX)))
    except ValueError:
        return None
    return session_id if room_name(session_id) == name else None
