"""The states of a session's room, where its transport has rooms: values in, values out.

    wanted ──→ open ─────────────┬──→ closed
      └──────→ found ─→ doubted ─┘

    wanted    it may be asked for               found      there; a call without an answer may make it again
    open      there, and nobody asks any more   doubted    deleted; such a call may bring it back

A room is deleted once its session is over. While a call that makes it may still come through, a room that is
not there may be there a moment later: it is deleted again when that has passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dispatcher.domain.deadlines import DEADLINE_GRACE_SECONDS
from dispatcher.domain.model import End, Session

ROOM_SETTLING_SECONDS = 10.0
"""So long after the last moment in which a call for a room is made it may still come through: as long as such
a call may take at most."""

CLOCKS_APART_SECONDS = 5.0
"""How much sooner, by our clock, a room's service may close it at its `exp`."""

LEAST_SECONDS = 1.0
"""Duration of a session whose room's `exp` passes while it is being written."""


def opened(session: Session, *, certain: bool) -> Session:
    """Its room is there; whether it is certain that no call is under way that could bring it back later."""
    if session.room_state not in ("wanted", "doubted"):
        return session
    return replace(session, room_state="open" if certain else "found")


def nowhere(session: Session) -> Session:
    """It is certain that there is no room, and that nobody asks for one any more."""
    return replace(session, room_state="closed") if session.room_state == "wanted" else session


def deleted(session: Session, before: Session, asked: float) -> Session:
    """Its room was deleted, or is not there, by a call that began at that moment; the session is over.

    Args:
        before: The session as it was when that call began: a room that has come since may still be there.
    """
    if session.room_state in (None, "closed"):
        return session
    if before.room_state == "open" or asked >= _settled_at(session):
        return replace(session, room_state="closed")
    return session if session.room_state == "open" else replace(session, room_state="doubted")


def closes_at(session: Session) -> float:
    """When the room of an admitted session closes by itself (unix seconds): its latest possible end."""
    return (session.admitted_at or session.created_at) + session.max_duration_seconds + DEADLINE_GRACE_SECONDS


def allowed_seconds(longest: float, wanted: Mapping[str, Any], now: float) -> float:
    """Maximum duration of a session whose start request wants such a room.

    Args:
        longest: The agent's limit, in seconds.
        wanted: The room's properties; `exp` is the unix time at which it closes.
    """
    return min(longest, max(wanted["exp"] - now, LEAST_SECONDS)) if "exp" in wanted else longest


def end_at_exp(session: Session, end: End, now: float) -> End:
    """Return the end of a session by its bot's report.

    A bot fails when its room closes as the start asked for, or ends itself at that time: whichever is first.
    """
    exp = (session.room or {}).get("properties", {}).get("exp")
    if end.reason not in ("bot_error", "max_duration") or exp is None or now < exp - CLOCKS_APART_SECONDS:
        return end
    why = "The room closed at its `exp`, as the start request asked for."
    return End("max_duration", why, f"{end.message}\n{end.detail or ''}".strip(), end.exit_code)


def due(session: Session) -> float | None:
    """From when on the room has to be deleted (unix seconds); None if there is nothing to do."""
    if not session.over or session.ended_at is None or session.room_state in (None, "closed"):
        return None
    if session.room_state == "doubted":
        return max(session.ended_at, _settled_at(session))
    return session.ended_at


def _settled_at(session: Session) -> float:
    """From when on no call brings the room back: nobody asks for it after its start's time, or once it has
    closed by itself."""
    since = session.admitted_at or session.created_at
    return min(since + session.start_timeout_seconds + ROOM_SETTLING_SECONDS, closes_at(session))
