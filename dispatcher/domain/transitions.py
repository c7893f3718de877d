"""All transitions of sessions and machines: values in, values out. Nowhere else is a state written.

    session   queued → starting → ready → active → ended
                └─────────┴─────────┴────────┴──→ failed     (and `ended` from any of them: it was stopped)

    queued    waits for a slot             ready    the bot runs, and waits for its client
    starting  admitted; a machine comes    active   a client was there

    machine   requested → started → gone

An event that comes late or twice changes nothing: a channel may repeat itself after a reconnect, and a
session that is over stays over, with the first reason that was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dispatcher.domain import deadlines
from dispatcher.domain.model import (
    ADMITTED,
    STAGE_PREFIX,
    End,
    Machine,
    MachineState,
    MachineStatus,
    Phase,
    Session,
    SessionState,
)

GOOD_ENDS = frozenset({"completed", "stopped"})
"""The reasons of `ended`; every other reason is a failure."""
MAX_TURNS_KEPT = 1000
MAX_MESSAGE_LENGTH = 1000
MAX_DETAIL_LENGTH = 20_000
"""Limit on characters: these texts come from bots, and are part of every answer about their session."""
_OF_SILENCE = ("start_timeout", "unresponsive")
"""Reasons of sessions whose bot reported nothing, or too little: its log may say why."""


def admitted(session: Session, now: float) -> Session:
    """Admit the session: a slot is free, and a machine may be requested."""
    if session.state is not SessionState.queued:
        return session
    return replace(session, state=SessionState.starting, admitted_at=now)


def unadmitted(session: Session) -> Session:
    """Return a session as it was before the admission just now."""
    return replace(session, state=SessionState.queued, admitted_at=None)


def started(session: Session, now: float, startup: Mapping[str, float] | None = None) -> Session:
    """The provider says that the machine started.

    Args:
        startup: Stage of the start → seconds, if it tells. The bot may have been heard before.
    """
    if session.over:
        return session
    if startup:
        stages = {f"{STAGE_PREFIX}{stage}": round(1000 * took, 1) for stage, took in startup.items()}
        session = _timed(session, stages)
    return session if session.started_at is not None else replace(admitted(session, now), started_at=now)


def reported(session: Session, phase: Phase, timings: Mapping[str, float] | None, now: float) -> Session:
    """Record the phase that the machine reported."""
    if session.over:
        return _timed(session, timings)
    session = _timed(replace(started(session, now), phase=phase), timings)
    if phase in ("waiting", "starting", "ready", "active") and session.waiting_at is None:
        session = replace(session, waiting_at=now)
    if phase in ("ready", "active") and session.ready_at is None:
        session = replace(session, state=SessionState.ready, ready_at=now)
    if phase == "active" and session.active_at is None:
        session = replace(session, state=SessionState.active, active_at=now)
    if session.ready_at is not None and (phase == "active") == (session.idle_since is not None):
        session = replace(session, idle_since=None if phase == "active" else now)
    return session


def client_left(session: Session, now: float) -> Session:
    """Record that no client is connected any more."""
    return reported(session, "ready", None, now) if session.phase == "active" else session


def first_word(session: Session, milliseconds: float) -> Session:
    """Record the time from the client's connection to the bot's first audio."""
    return session if session.first_word_ms is not None else replace(session, first_word_ms=milliseconds)


def turn(session: Session, milliseconds: float, now: float) -> Session:
    """Record a turn and its latency: it proves that a client is connected, whatever was reported."""
    turns = [*session.turns_ms, milliseconds][-MAX_TURNS_KEPT:]
    idle_since = session.idle_since if session.over or session.idle_since is None else now
    return replace(session, turns_ms=turns, idle_since=idle_since)


def over(session: Session, end: End, now: float) -> Session:
    """End the session, for this reason, and delete what its caller gave for the bot alone."""
    if session.over:
        return session
    state = SessionState.ended if end.reason in GOOD_ENDS else SessionState.failed
    return replace(
        session,
        state=state,
        ended_at=now,
        body=None,
        ice_servers=[],
        reason=end.reason,
        message=_text(end.message)[:MAX_MESSAGE_LENGTH],
        detail=_text(end.detail)[-MAX_DETAIL_LENGTH:] if end.detail else None,
        exit_code=end.exit_code,
        retry_at=now + end.retry_after if end.retry_after is not None else None,
        # Of a session that never had a slot no room was asked for.
        room_state="closed" if session.room_state and session.admitted_at is None else session.room_state,
    )


def ending(before: Session, after: Session, machine: Machine | None, grace_seconds: float) -> Session:
    """Keep the slot of a session that this change ends, if its machine may still exist."""
    if before.state not in ADMITTED or after.ended_at is None or grace_seconds <= 0:
        return after
    if machine is None or machine.placement is None or machine.state is MachineState.gone:
        return after
    return replace(after, line_until=after.ended_at + grace_seconds)


def slot_free(session: Session) -> Session:
    """Free the slot of an ended session: its machine is gone, or its grace has passed."""
    return session if session.line_until is None else replace(session, line_until=None)


def exited(session: Session, status: MachineStatus | None) -> Session:
    """Record a bot's exit that became known after the session's end; with its last output if it was
    silent."""
    if not session.over or status is None:
        return session
    if session.exit_code is None:
        session = replace(session, exit_code=status.exit_code)
    if session.detail is None and session.reason in _OF_SILENCE and status.output:
        session = replace(session, detail=_text(status.output)[-MAX_DETAIL_LENGTH:])
    return session


def machine_started(machine: Machine) -> Machine:
    """Record that the provider reports the machine as started."""
    if machine.state is not MachineState.requested:
        return machine
    return replace(machine, state=MachineState.started)


def wanted(
    machine: Machine, placement: str, provider: str, create_by: float, launcher: str | None = None
) -> Machine:
    """Request the machine of an admitted session, at this placement first, until `create_by`."""
    if machine.state is MachineState.gone or machine.create_by is not None:
        return machine
    return replace(machine, placement=placement, provider=provider, create_by=create_by, launcher=launcher)


def lacks_machine(machine: Machine, session: Session) -> bool:
    """Return True if the machine of an admitted session is not known to exist yet."""
    return (
        session.state is SessionState.starting
        and session.started_at is None
        and machine.state is MachineState.requested
    )


def lacks_room(machine: Machine, session: Session) -> bool:
    """Return True if the room is not known to exist yet, which may take longer than the machine."""
    return (
        session.state in ADMITTED
        and session.room_state == "wanted"
        and machine.state is not MachineState.gone
    )


def left_alone(machine: Machine, session: Session, now: float) -> bool:
    """Return True if another replica must go on requesting machine or room, should the launcher be dead."""
    return (
        (lacks_machine(machine, session) or lacks_room(machine, session))
        and machine.placement is not None
        and machine.create_by is not None
        and now < machine.create_by
    )


def handed_on(machine: Machine, before: str | None, to: str) -> Machine:
    """Hand the start of a dead replica to another one."""
    if machine.state is MachineState.gone or machine.launcher != before:
        return machine
    return replace(machine, launcher=to)


def placed(machine: Machine, placement: str, provider: str) -> Machine:
    """Record the placement that is asked next; all earlier ones are known not to have the machine."""
    if machine.state is MachineState.gone:
        return machine
    return replace(machine, placement=placement, provider=provider)


def machine_gone(machine: Machine, status: MachineStatus | None, now: float) -> Machine:
    """Record that the machine is gone, or that the provider has never known it."""
    if machine.state is MachineState.gone:
        return machine
    exit_code = status.exit_code if status is not None else None
    return replace(machine, state=MachineState.gone, gone_at=now, exit_code=exit_code)


def gone_from(machine: Machine, placement: str | None, status: MachineStatus | None, now: float) -> Machine:
    """Record that the machine is gone, if this placement is still the one that is asked for it.

    A placement that refuses a create late shows its machine as gone; the next one may have it by then.
    """
    return machine_gone(machine, status, now) if machine.placement == placement else machine


def _text(text: str) -> str:
    """Return the text without NUL, which a bot's output may contain and PostgreSQL refuses."""
    return text.replace("\0", "")


def _timed(session: Session, timings: Mapping[str, float] | None) -> Session:
    if timings is None or timings.items() <= session.timings.items():
        return session
    return replace(session, timings={**session.timings, **timings})


# Rooms, where a transport has them.
#
#     wanted ──→ open ─────────────┬──→ closed
#       └──────→ found ─→ doubted ─┘
#
#     wanted    it may be asked for               found      there; a call without an answer may make it again
#     open      there, and nobody asks any more   doubted    deleted; such a call may bring it back
#
# A room is deleted once its session is over. While a call that makes it may still come through, a room that
# is not there may be there a moment later: it is deleted again when that has passed.


def room_opened(session: Session, *, certain: bool) -> Session:
    """Record that the room exists; `certain`: no call under way could create it again later."""
    if session.room_state not in ("wanted", "doubted"):
        return session
    return replace(session, room_state="open" if certain else "found")


def no_room(session: Session) -> Session:
    """Record that there certainly is no room, and that nobody requests one any more."""
    return replace(session, room_state="closed") if session.room_state == "wanted" else session


def room_deleted(session: Session, before: Session, asked: float) -> Session:
    """Record that a call that began at that moment deleted the room, or found none, after the session's end.

    Args:
        before: The session when that call began: a room that was created since may still exist.
    """
    if session.room_state in (None, "closed"):
        return session
    if before.room_state == "open" or asked >= deadlines.room_settled_at(session):
        return replace(session, room_state="closed")
    return session if session.room_state == "open" else replace(session, room_state="doubted")
