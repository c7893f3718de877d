"""Deadlines of sessions, machines and rooms: when each is due, and the end that misses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dispatcher.domain.model import End, Machine, MachineState, MachineStatus, Session

DEADLINE_GRACE_SECONDS = 15.0
"""Grace after a session's maximum duration, for its bot's own timer."""

ROOM_SETTLING_SECONDS = 10.0
"""Time after the last call for a room in which the call may still take effect: the limit of such a call."""

START_SHARE = 0.9
"""Share of the start timeout in which a machine must be had: one that came later had no time to get ready.
The placements' errors are told before the timeout, which knows less, closes the session."""

UNRESPONSIVE_PROBES = 5
"""So often a silent machine must have been asked about before it counts as unresponsive. Where this whole
computer slept, the clock alone would end every session at once."""

LEAST_SECONDS = 1.0
"""Duration of a session whose room's `exp` passes while it is being written."""


def deadline(session: Session) -> tuple[float, End] | None:
    """Return a session's next deadline in Unix seconds, and the end if it is missed; None if the session is
    over."""
    if session.over:
        return None
    if session.admitted_at is None:
        waited = End("queue_timeout", f"No slot became free within {session.queue_seconds:g} s.")
        return session.created_at + session.queue_seconds, waited
    allowed = session.max_duration_seconds
    last = End("max_duration", f"The session outlived its maximum duration of {allowed:g} s.")
    longest = (session.admitted_at + allowed + DEADLINE_GRACE_SECONDS, last)
    step = _step_deadline(session, session.admitted_at)
    return longest if step is None or longest[0] <= step[0] else step


def create_by(session: Session, admitted_at: float) -> float:
    """Return until when a machine is requested, for a session that is admitted at that time (Unix
    seconds)."""
    return admitted_at + START_SHARE * session.start_timeout_seconds


def overdue(session: Session, now: float) -> End | None:
    """Return the end of a live session that missed a deadline; None if it missed none."""
    due = deadline(session)
    return due[1] if due is not None and now > due[0] else None


def absence_counts(machine: Machine, session: Session | None, settling: float, now: float) -> bool:
    """Return True if a provider that does not know the machine proves that it is gone.

    During a create, and for the provider's settling time after it, this proves nothing.
    """
    if machine.placement is None or machine.create_by is None:
        return True
    asked_until = machine.create_by
    if session is not None and session.started_at is not None:
        asked_until = min(asked_until, session.started_at)
    return now >= asked_until + settling


def is_lost(
    status: MachineStatus | None, machine: Machine, session: Session, settling: float, asked_at: float
) -> bool:
    """Return True if a provider's answer (None: it knows no such machine) proves that the machine is gone.

    Args:
        settling: How long the provider may not know what it has created.
        asked_at: The time of the question (unix seconds).
    """
    gone = status is not None and status.state is MachineState.gone
    if session.started_at is None:
        if not gone:
            # It has the start's own deadline, which says more.
            return False
    elif status is not None:
        return gone
    # What is gone before it has started may be asked for again, here or at the next placement.
    return absence_counts(machine, session, settling, asked_at)


def is_unresponsive(session: Session, probes: int, silent_seconds: float, limit: float) -> bool:
    """Return True if the machine of a bot that was ready has been silent for too long.

    Before a bot is ready, its start and its client have deadlines of their own.

    Args:
        probes: How often the provider was asked since the machine was heard last.
        silent_seconds: Time since the first of these probes.
    """
    return session.ready_at is not None and probes >= UNRESPONSIVE_PROBES and silent_seconds >= limit


def room_closes_at(session: Session) -> float:
    """Return when the room of an admitted session closes by itself (unix seconds): its latest end."""
    return (session.admitted_at or session.created_at) + session.max_duration_seconds + DEADLINE_GRACE_SECONDS


def room_due(session: Session) -> float | None:
    """Return from when on the room has to be deleted (unix seconds); None if there is nothing to do."""
    if not session.over or session.ended_at is None or session.room_state in (None, "closed"):
        return None
    if session.room_state == "doubted":
        return max(session.ended_at, room_settled_at(session))
    return session.ended_at


def room_settled_at(session: Session) -> float:
    """Return from when on no call can create the room again (Unix seconds).

    Nobody requests it after its start's deadline, or once it has closed by itself.
    """
    since = session.admitted_at or session.created_at
    return min(since + session.start_timeout_seconds + ROOM_SETTLING_SECONDS, room_closes_at(session))


def allowed_seconds(longest: float, wanted: Mapping[str, Any], now: float) -> float:
    """Return the maximum duration of a session with these properties of its room.

    Args:
        longest: The agent's limit, in seconds.
        wanted: The room's properties; `exp` is the Unix time at which it closes.
    """
    return min(longest, max(wanted["exp"] - now, LEAST_SECONDS)) if "exp" in wanted else longest


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
