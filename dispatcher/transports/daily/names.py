"""Which Daily room is which session's."""

from __future__ import annotations

import uuid

PREFIX = "switchboard-"
"""Of the names of our rooms."""


def room_name(session_id: str) -> str:
    return f"{PREFIX}{session_id}"


def session_of(name: str) -> str | None:
    """The session whose room it is; None for a room that is none of ours."""
    try:
        session_id = str(uuid.UUID(name.removeprefix(PREFIX)))
    except ValueError:
        return None
    return session_id if room_name(session_id) == name else None
