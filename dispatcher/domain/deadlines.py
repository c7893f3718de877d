"""Deadlines of sessions and machines: when each is due, and the end that misses it."""

from __future__ import annotations

from dispatcher.domain.model import End, Machine, Session

DEADLINE_GRACE_SECONDS = 15.0
"""How long after its maximum duration a session is left to its bot's own timer."""


def deadline(session: Session) -> tuple[float, End] | None:
    """The next deadline of a session in unix seconds, and what misses it; None for one that is over."""
    if session.over:
        return None
    if session.admitted_at is None:
        waited = End("queue_timeout", f"No line became free within {session.queue_seconds:g} s.")
        return session.created_at + session.queue_seconds, waited
    allowed = session.max_duration_seconds
    last = End("max_duration", f"The session outlived its maximum duration of {allowed:g} s.")
    longest = (session.admitted_at + allowed + DEADLINE_GRACE_SECONDS, last)
    step = _step_deadline(session, session.admitted_at)
    return longest if step is None or longest[0] <= step[0] else step


def overdue(session: Session, now: float) -> End | None:
    """What a live session has missed, if anything."""
    due = deadline(session)
    return due[1] if due is not None and now > due[0] else None


def absence_counts(machine: Machine, session: Session | None, settling: float, now: float) -> bool:
    """Whether a provider that does not know the machine proves that it is gone.

    While it is being asked for, and for the provider's settling time after that, it proves nothing.
    """
    if machine.placement is None or machine.create_by is None:
        return True
    asked_until = machine.create_by
    if session is not None and session.started_at is not None:
        asked_until = min(asked_until, session.started_at)
    return now >= asked_until + settling


def _step_deadline(session: Session, admitted_at: float) -> tuple[float, End] | None:
    if session.ready_at is not None:
        return _idle_deadline(session)
    if session.waiting_at is None:
        limit = session.start_timeout_seconds
        end = End("start_timeout", f"The bot was not ready within {limit:g} s; {_last_step(session)}.")
        return admitted_at + limit, end
    limit = session.client_timeout_seconds
    if session.phase == "starting":
        end = End("start_timeout", f"The bot's pipeline did not start within {limit:g} s.")
    else:
        end = End("no_client", f"No client connected within {limit:g} s.")
    return session.waiting_at + limit, end


def _idle_deadline(session: Session) -> tuple[float, End] | None:
    if session.idle_since is None or session.idle_timeout_seconds is None:
        return None
    if session.active_at is None:
        limit = session.client_timeout_seconds
        return session.idle_since + limit, End("no_client", f"No client connected within {limit:g} s.")
    limit = session.idle_timeout_seconds
    return session.idle_since + limit, End("idle_timeout", f"No client was connected for {limit:g} s.")


def _last_step(session: Session) -> str:
    if session.started_at is None:
        return "its machine never started"
    if session.phase is None:
        return "its machine runs, but never reported"
    if session.phase == "loading":
        return "it was still importing the bot file"
    return f"its last report was '{session.phase}'"
