"""All states and transitions of sessions and machines, and nothing else: values in, values out.

    session   queued → starting → ready → active → ended
                └─────────┴─────────┴────────┴──→ failed     (and `ended` from any of them: it was stopped)

    queued    waits for a line             ready    the bot runs, and waits for its client
    starting  admitted; a machine comes    active   a client was there

    machine   requested → started → gone

An event that comes late or twice changes nothing: a channel may repeat itself after a reconnect, and a
session that is over stays over, with the first reason that was given.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from bot.protocol import Ended, Phase, Timings
from dispatcher.machines.provider import MachineState, MachineStatus


class SessionState(StrEnum):
    queued = "queued"
    starting = "starting"
    ready = "ready"
    active = "active"
    ended = "ended"
    failed = "failed"


LIVE = (SessionState.queued, SessionState.starting, SessionState.ready, SessionState.active)
ADMITTED = (SessionState.starting, SessionState.ready, SessionState.active)
"""The live ones that count against `max_sessions`, as `has_line` does those whose machines are ending."""

OVER = (SessionState.ended, SessionState.failed)

RoomState = Literal["wanted", "open", "found", "doubted", "closed"]

GOOD_ENDS = frozenset({"completed", "stopped"})
"""The reasons of `ended`; every other reason is a failure."""

DEADLINE_GRACE_SECONDS = 15.0
"""How long after its maximum duration a session is left to its bot's own timer."""

MAX_TURNS_KEPT = 1000
MAX_MESSAGE_LENGTH = 1000
MAX_DETAIL_LENGTH = 20_000
"""Characters: these texts come from bots, and are answered with every look at their session."""


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation. Times are unix seconds; None until it happened."""

    id: str
    agent: str
    transport: str
    body: Any
    ice_servers: list[dict[str, Any]]
    machine_id: str
    state: SessionState
    start_timeout_seconds: float
    client_timeout_seconds: float
    max_duration_seconds: float
    """The agent's limits when the session was started: a later deployment does not change them."""
    created_at: float
    idle_timeout_seconds: float | None = None
    """How long nobody may be there, once somebody was. None: sessions from before there was this limit."""
    queue_seconds: float = 0.0
    """How long it may wait for a line."""
    admitted_at: float | None = None
    """A line became free; from here on the start's and the session's deadlines run."""
    idle_since: float | None = None
    """Nobody is there since then; None while somebody is, and before somebody could be."""
    phase: Phase | None = None
    started_at: float | None = None
    """The provider said that the machine started."""
    waiting_at: float | None = None
    """The machine could take its client."""
    ready_at: float | None = None
    active_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    message: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    timings: dict[str, float] = field(default_factory=dict)
    first_word_ms: float | None = None
    turns_ms: list[float] = field(default_factory=list)
    traceparent: str | None = None
    """The W3C trace context under which all that the session does is told."""
    retry_at: float | None = None
    """Of a session that failed: from then on another start may go better, where somebody said so."""
    owner: str | None = None
    """The name of the key that it was started with; None where none was needed."""
    room: dict[str, Any] | None = field(default=None, repr=False)
    """Its `Room`, with the bot's token, if its transport has rooms."""
    room_state: RoomState | None = None
    line_until: float | None = None
    """Its line is taken until then: it is over, and its machine is not known to be gone."""

    @property
    def has_line(self) -> bool:
        """True if the session counts against `max_sessions`."""
        return self.state in ADMITTED or self.line_until is not None

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a session."""

    id: str
    session_id: str | None
    provider: str
    state: MachineState
    created_at: float
    gone_at: float | None = None
    exit_code: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    placement: str | None = None
    """Where it is or may be; None as long as no placement was asked for it."""
    create_by: float | None = None
    """Nobody asks for the machine after that."""
    launcher: str | None = None
    """The replica that asks for it, and for its session's room."""


_OF_SILENCE = ("start_timeout", "unresponsive")
"""Reasons of sessions whose bot said nothing, or not enough: its log may say why."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a session is over: a stable code, a sentence for people, and what else is known."""

    reason: str
    message: str
    detail: str | None = None
    exit_code: int | None = None
    retry_after: float | None = None
    """In so many seconds another start may go better: who refused this one said so."""


def admitted(session: Session, now: float) -> Session:
    """There is a line for the session: a machine may be asked for."""
    if session.state is not SessionState.queued:
        return session
    return replace(session, state=SessionState.starting, admitted_at=now)


def unadmitted(session: Session) -> Session:
    """A session that was admitted just now, as it was before."""
    return replace(session, state=SessionState.queued, admitted_at=None)


def started(session: Session, now: float) -> Session:
    """The provider says that the machine started."""
    if session.over or session.started_at is not None:
        return session
    return replace(admitted(session, now), started_at=now)


def reported(session: Session, phase: Phase, timings: Timings | None, now: float) -> Session:
    """The machine said over its channel in which phase it is."""
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
    """The machine said that no client is connected any more."""
    return reported(session, "ready", None, now) if session.phase == "active" else session


def first_word(session: Session, milliseconds: float) -> Session:
    """The bot's first audio went out so long after the client was connected."""
    return session if session.first_word_ms is not None else replace(session, first_word_ms=milliseconds)


def turn(session: Session, milliseconds: float, now: float) -> Session:
    """The bot answered the user after so long, at this moment: somebody is there, whatever else was said."""
    turns = [*session.turns_ms, milliseconds][-MAX_TURNS_KEPT:]
    idle_since = session.idle_since if session.over or session.idle_since is None else now
    return replace(session, turns_ms=turns, idle_since=idle_since)


def over(session: Session, end: End, now: float) -> Session:
    """The session is over, for this reason. What its caller gave for the bot alone is forgotten."""
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
        # Of a session that never had a line no room was asked for.
        room_state="closed" if session.room_state and session.admitted_at is None else session.room_state,
    )


def ending(before: Session, after: Session, machine: Machine | None, grace_seconds: float) -> Session:
    """Keep the line of a session that is over by this change, if its machine may be there."""
    if before.state not in ADMITTED or after.ended_at is None or grace_seconds <= 0:
        return after
    if machine is None or machine.placement is None or machine.state is MachineState.gone:
        return after
    return replace(after, line_until=after.ended_at + grace_seconds)


def line_free(session: Session) -> Session:
    """Free the line of a session that is over: its machine is gone, or had its grace."""
    return session if session.line_until is None else replace(session, line_until=None)


def exited(session: Session, status: MachineStatus | None) -> Session:
    """How the bot ended became known after the session was over, and its last words if it was silent."""
    if not session.over or status is None:
        return session
    if session.exit_code is None:
        session = replace(session, exit_code=status.exit_code)
    if session.detail is None and session.reason in _OF_SILENCE and status.output:
        session = replace(session, detail=_text(status.output)[-MAX_DETAIL_LENGTH:])
    return session


def machine_started(machine: Machine) -> Machine:
    """The provider says that the machine started."""
    if machine.state is not MachineState.requested:
        return machine
    return replace(machine, state=MachineState.started)


def wanted(
    machine: Machine, placement: str, provider: str, create_by: float, launcher: str | None = None
) -> Machine:
    """Its session was admitted: the launcher asks this placement for the machine first, until `create_by`."""
    if machine.state is MachineState.gone or machine.create_by is not None:
        return machine
    return replace(machine, placement=placement, provider=provider, create_by=create_by, launcher=launcher)


def lacks_machine(machine: Machine, session: Session) -> bool:
    """Whether the machine of a session that was admitted is not known to be there yet."""
    return (
        session.state is SessionState.starting
        and session.started_at is None
        and machine.state is MachineState.requested
    )


def lacks_room(machine: Machine, session: Session) -> bool:
    """The same of its room, which may take longer than its machine."""
    return (
        session.state in ADMITTED
        and session.room_state == "wanted"
        and machine.state is not MachineState.gone
    )


def left_alone(machine: Machine, session: Session, now: float) -> bool:
    """Whether somebody has to go on asking for the machine or the room, if its launcher is dead."""
    return (
        (lacks_machine(machine, session) or lacks_room(machine, session))
        and machine.placement is not None
        and machine.create_by is not None
        and now < machine.create_by
    )


def handed_on(machine: Machine, before: str | None, to: str) -> Machine:
    """The replica that asked for the machine and its room is dead: from now on another one does."""
    if machine.state is MachineState.gone or machine.launcher != before:
        return machine
    return replace(machine, launcher=to)


def placed(machine: Machine, placement: str, provider: str) -> Machine:
    """A placement is about to be asked for the machine, and every one before it is known not to have it."""
    if machine.state is MachineState.gone:
        return machine
    return replace(machine, placement=placement, provider=provider)


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


def machine_gone(machine: Machine, status: MachineStatus | None, now: float) -> Machine:
    """The provider says that the machine is gone, or has never heard of it."""
    if machine.state is MachineState.gone:
        return machine
    exit_code = status.exit_code if status is not None else None
    return replace(machine, state=MachineState.gone, gone_at=now, exit_code=exit_code)


def end_by_report(report: Ended) -> End:
    """The bot's own last word."""
    return End(report.reason, report.message, report.detail or None, report.exit_code)


def end_by_loss(status: MachineStatus | None) -> End:
    """The machine is gone and had not said why."""
    if status is None:
        return End("machine_lost", "The machine is gone, and the provider has no record of it.")
    if status.out_of_memory_mb is not None:
        message = f"The bot used all of its machine's memory, {status.out_of_memory_mb} MiB, and was ended."
        return End("out_of_memory", message, status.output or None, status.exit_code)
    if status.exit_code is None:
        message = "The machine is gone; its bot's exit status is not known."
        return End("machine_lost", message, status.output or None)
    number = status.exit_code - 128
    if number not in set(signal.Signals):
        return End(
            "machine_exited",
            f"The bot's process ended with exit status {status.exit_code} before it could say why.",
            status.output or None,
            exit_code=status.exit_code,
        )
    if number == signal.SIGTERM:
        message = "The machine was stopped from outside: its host or engine ended it, or somebody did."
        return End("machine_stopped", message, status.output or None, status.exit_code)
    name = signal.Signals(number).name
    message = f"The bot's process was killed with signal {number} ({name})."
    if name == "SIGKILL":
        message += " The system does that when memory runs out."
    return End("machine_killed", message, status.output or None, status.exit_code)


def end_by_silence(seconds: float) -> End:
    """The machine runs by its provider's word, and has said nothing for so many seconds."""
    message = f"The bot has not reported for {seconds:g} s, although its machine runs; it is ended."
    return End("unresponsive", message)


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


def _text(text: str) -> str:
    """Without NUL, which what a bot printed may have in it and PostgreSQL refuses in any text."""
    return text.replace("\0", "")


def _timed(session: Session, timings: Timings | None) -> Session:
    if timings is None:
        return session
    known = timings.model_dump(exclude_none=True)
    return (
        session
        if known.items() <= session.timings.items()
        else replace(session, timings=session.timings | known)
    )
