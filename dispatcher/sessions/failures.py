"""Ends of sessions by what others said, and failed sessions as errors for their callers."""

from __future__ import annotations

from dispatcher.domain.errors import AtCapacity, NotStarted, SessionOver, StartFailed
from dispatcher.domain.model import End, Session, SessionState
from dispatcher.machines.failover import Abandoned, Faulty
from dispatcher.machines.provider import NoCapacity, ProviderError, QuotaReached, Throttled, Unreachable
from dispatcher.transports.errors import NoAnswer, Refused, RoomError, TooManyCalls


def end_by_provider(error: ProviderError) -> End:
    """The reason and its words, for the error of the fleet."""
    match error:
        case NoCapacity():
            return End("no_capacity", "No machine is free for this session right now.", str(error))
        case QuotaReached():
            return End("quota_reached", "This deployment has all the machines that it may have.", str(error))
        case Throttled():
            message = "The machines API is taking no more calls right now."
            return End("throttled", message, str(error), retry_after=error.retry_after)
        case Faulty():
            return End(
                "internal_error", "The dispatcher failed to ask for a machine; its log says why.", str(error)
            )
        case Abandoned():
            message = (
                "The dispatcher that asked for the machine died, and nobody could find out what came of it."
            )
            return End("unreachable", message, str(error))
        case Unreachable():
            return End("unreachable", "The machines API did not answer.", str(error))
        case _:
            return End("rejected", f"The machine could not be created: {error}.", str(error))


def end_by_room(error: RoomError) -> End:
    """The reason and its words, for the error of the transport."""
    match error:
        case TooManyCalls():
            message = "The service that has the rooms is taking no more calls right now."
            return End("room_throttled", message, str(error), retry_after=error.retry_after)
        case NoAnswer():
            return End("room_unreachable", "The service that has the rooms did not answer.", str(error))
        case Refused(caller_fault=fault) if fault:
            return End("room_rejected", f"The session's room could not be created. {fault}", str(error))
        case _:
            return End("room_rejected", "The session's room could not be created.", str(error))


RETRY_HELPS = (
    *("no_capacity", "quota_reached", "throttled", "unreachable"),
    *("room_throttled", "room_unreachable"),
)
"""The reasons for having no machine, or no room, that may be gone in a moment."""


def failure(session: Session, now: float) -> AtCapacity | NotStarted | StartFailed:
    """The answer to the request whose session failed before it could be joined."""
    message = in_words(session)
    if session.reason == "queue_timeout":
        return AtCapacity(f"Agent {session.agent} is at capacity: {message}")
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
