"""A session's timeline: an event per transition, and per fact worth knowing.

    queued             asked for, by whom          client-connected     somebody is there
    starting           a machine is asked for      client-disconnected  and gone again; may come back
    from-reserve       a machine waited for it     stop-requested       by whom
    cold-start         none did, and why
    placement-changed  another one is asked
    machine-started    the provider says so
    machine-startup    where its time went         ended, failed        with the reason in words
    phase              what the machine does
    ready, active      the bot, then its client    machine-gone         nothing is left
    orphan-stopped     a machine that it had no more, or never, was found and is ended
    room-open          where its transport has rooms: it can be joined
    room-event         what is said to have happened in it
    room-gone          it is deleted, or closed by itself

Events are derived from a session as it was and as it is, so that no change can be written without them, and
what is said twice is on record once. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dispatcher.domain.model import OVER, STAGE_PREFIX, Machine, MachineState, Phase, Session, SessionState

Kind = Literal[
    "queued",
    "starting",
    "placement-changed",
    "from-reserve",
    "cold-start",
    "machine-started",
    "machine-startup",
    "phase",
    "ready",
    "active",
    "client-connected",
    "client-disconnected",
    "stop-requested",
    "ended",
    "failed",
    "machine-gone",
    "orphan-stopped",
    "room-open",
    "room-event",
    "room-gone",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

ENDS: frozenset[Kind] = frozenset({"ended", "failed"})
"""A session's last own events; only its machine's and its room's can follow."""

REPEATED: frozenset[Kind] = frozenset({"phase", "client-connected", "client-disconnected", "room-event"})
"""Events that bots and clients can repeat at will."""

DISPATCHER = "dispatcher"
PROVIDER = "provider"
MACHINE = "machine"
REAPER = "reaper"
OURS = frozenset({DISPATCHER, PROVIDER, MACHINE, REAPER})
"""Authors of events other than people and their keys."""

# What a machine does before its bot is ready, and as it goes; `ready` and `active` are events of their own.
_PHASES: dict[Phase, str] = {
    "booting": "The machine starts.",
    "idle": "The machine waits for its session.",
    "loading": "The machine imports the bot file.",
    "waiting": "The machine waits for its client.",
    "starting": "The bot runs; its pipeline starts.",
    "ending": "The machine ends.",
}


@dataclass(frozen=True, slots=True)
class Cause:
    """Author and time (unix seconds) of a change."""

    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline. `state` and `phase` are the session's right after it."""

    kind: Kind
    at: float
    actor: str
    state: SessionState
    phase: Phase | None
    message: str
    """A sentence for people."""
    reason: str | None = None
    """The stable code of an end."""
    number: int = 0
    """Number of the event in its session, from 1; the store assigns it."""


def asked(session: Session, actor: str) -> Event:
    """Return the first event of a session."""
    message = f"A session of {session.agent} over {session.transport} was asked for."
    return Event("queued", session.created_at, actor, session.state, session.phase, message)


def changed(before: Session, after: Session, cause: Cause) -> list[Event]:
    """Return the events between a session's old state and its new one."""
    return list(_changed(before, after, cause))


def machine_changed(before: Machine, after: Machine, session: Session, cause: Cause) -> list[Event]:
    """Return the session's events between its machine's old state and its new one."""
    if after.placement != before.placement and before.placement is not None and not session.over:
        message = f"{before.placement} gave no machine; {after.placement} is asked for it."
        return [Event("placement-changed", cause.at, cause.actor, session.state, session.phase, message)]
    if after.state is before.state or after.state is not MachineState.gone:
        return []
    status = "" if after.exit_code is None else f"; its process ended with exit status {after.exit_code}"
    message = f"The machine {after.id} is gone{status}."
    return [Event("machine-gone", cause.at, cause.actor, session.state, session.phase, message)]


def orphan_stopped(machine_id: str, placement: str, session: Session, cause: Cause) -> Event:
    """Return the event of a machine that runs where the session, by its row, has none."""
    message = f"A machine {machine_id} was found at {placement}, where this session has none; it is ended."
    return Event("orphan-stopped", cause.at, cause.actor, session.state, session.phase, message)


def from_reserve(machine: Machine, session: Session, cause: Cause) -> Event:
    """Return the event of a session that gets a machine of the reserve."""
    waited = cause.at - (machine.seen_at if machine.seen_at is not None else cause.at)
    message = f"From the reserve: the machine {machine.id} has waited for {waited:.0f} s and is assigned."
    return Event("from-reserve", cause.at, cause.actor, session.state, session.phase, message)


def cold_start(why: str, session: Session, cause: Cause) -> Event:
    """Return the event of a session that gets a new machine although its agent has a reserve.

    Args:
        why: The reason, as a sentence.
    """
    message = f"Cold: {why} The machine {session.machine_id} is asked for."
    return Event("cold-start", cause.at, cause.actor, session.state, session.phase, message)


def room_event(message: str, session: Session, cause: Cause) -> Event | None:
    """Return the event of a message about a session's room; None if the session is over."""
    if session.over:
        return None
    return Event("room-event", cause.at, cause.actor, session.state, session.phase, message)


def _changed(before: Session, after: Session, cause: Cause) -> Iterator[Event]:
    now = Event("phase", cause.at, cause.actor, before.state, before.phase, "")
    if before.state is SessionState.queued and after.state not in (before.state, *OVER):
        now = replace(now, state=SessionState.starting)
        message = f"The machine {after.machine_id} is asked for."
        yield replace(now, kind="starting", actor=DISPATCHER, message=message)
    if before.started_at is None and after.started_at is not None:
        yield replace(now, kind="machine-started", message=f"The machine {after.machine_id} started.")
    if after.timings is not before.timings and (words := _startup(before, after)):
        yield replace(now, kind="machine-startup", message=f"The start of its machine took {words}.")
    if before.room_state == "wanted" and after.room_state in ("open", "found") and not after.over:
        yield replace(now, kind="room-open", message="The room is there.")
    now = replace(now, phase=after.phase)
    if after.phase != before.phase and after.phase in _PHASES:
        yield replace(now, kind="phase", message=_PHASES[after.phase])
    if before.ready_at is None and after.ready_at is not None:
        now = replace(now, state=SessionState.ready)
        yield replace(now, kind="ready", message="The bot is ready: its pipeline started.")
    yield from _clients(before, after, now)
    if after.over and not before.over:
        yield from end_events(after, now)
    if before.over and after.room_state == "closed" != before.room_state:
        yield replace(now, kind="room-gone", message="The room is gone.")


def _startup(before: Session, after: Session) -> str:
    """Return where the time of a machine's start went, if that became known: `pull 15.0 s, boot 3.0 s`."""
    stages = {name: ms for name, ms in after.timings.items() if name.startswith(STAGE_PREFIX)}
    if stages.keys() <= before.timings.keys():
        return ""
    return ", ".join(f"{name.removeprefix(STAGE_PREFIX)} {ms / 1000:.1f} s" for name, ms in stages.items())


def _clients(before: Session, after: Session, now: Event) -> Iterator[Event]:
    if after.phase == "active" != before.phase:
        yield replace(now, kind="client-connected", message="A client is connected.")
    if before.active_at is None and after.active_at is not None:
        message = "The conversation runs."
        yield replace(now, kind="active", state=SessionState.active, message=message)
    if before.phase == "active" and after.phase == "ready":
        yield replace(now, kind="client-disconnected", message="No client is connected any more.")


def end_events(after: Session, now: Event) -> Iterator[Event]:
    """Yield the events of a session's end: who asked for it, and how it ended."""
    if after.reason == "stopped" and now.actor not in OURS:
        yield replace(now, kind="stop-requested", message=f"Asked to stop by {now.actor}.")
        now = replace(now, actor=DISPATCHER)
    kind = "ended" if after.state is SessionState.ended else "failed"
    yield replace(now, kind=kind, state=after.state, message=after.message or "", reason=after.reason)
