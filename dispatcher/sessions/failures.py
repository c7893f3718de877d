"""Sessions that could not be had, as errors for who asked for them."""

from __future__ import annotations

from dispatcher.domain.errors import AtCapacity, NotStarted, SessionOver, StartFailed
from dispatcher.domain.model import Session, SessionState
from dispatcher.machines.provider import Throttled
from dispatcher.sessions.ends import end_by_provider, end_by_room
from dispatcher.transports.errors import RoomError

RETRY_HELPS = (
    *("no_capacity", "quota_reached", "throttled", "unreachable"),
    *("room_throttled", "room_unreachable"),
)
"""The reasons for having no machine, or no room, that may be gone in a moment."""


def failure(session: Session, now: float) -> AtCapacity | NotStarted | StartFailed:
    """The answer to the request whose session failed before it could be joined."""
    message = in_words(session)
    if session.reason == "queue_timeout":
        return AtCapacity(f"All lines are busy: {message}")
    if session.reason not in RETRY_HELPS:
        return StartFailed(message, code=session.reason)
    # By the row: the answer may be another replica's, or a later one to the same key.
    retry_after = session.retry_at - now if session.retry_at is not None else None
    return NotStarted(message, code=session.reason, retry_after=retry_after)


def failed_before(session: Session) -> StartFailed:
    """The answer to a repeated request. Its key stands for this session: to come back with it never helps."""
    message = f"{in_words(session)} For another session, use a new Idempotency-Key."
    return StartFailed(message, code=session.reason)


def over(session: Session, *, was_over: bool) -> SessionOver | StartFailed:
    """The answer to a call of a session that is over.

    A session that failed before its bot was ready gives one answer, whether the call came before or after.

    Args:
        was_over: Whether the session was over before the call came.
    """
    failed = session.state is SessionState.failed
    if failed and (session.ready_at is None or not was_over):
        return StartFailed(in_words(session), code=session.reason)
    return SessionOver(in_words(session))


def in_words(session: Session) -> str:
    """Return the reason why a session is over, for people."""
    return session.message or f"The session is {session.state}."


def no_machine(error: Throttled) -> NotStarted:
    """The answer to a start that was refused before there was a session."""
    end = end_by_provider(error)
    return NotStarted(end.message, code=end.reason, retry_after=end.retry_after)


def no_room(error: RoomError) -> NotStarted | StartFailed:
    """The answer to a start whose tokens could not be had; there is no session."""
    end = end_by_room(error)
    if end.reason in RETRY_HELPS:
        return NotStarted(end.message, code=end.reason, retry_after=end.retry_after)
    return StartFailed(end.message, code=end.reason)
