"""Records: sessions and machines, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal


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
Phase = Literal["booting", "idle", "loading", "waiting", "starting", "ready", "active", "ending"]
"""Where a machine is, as it says over its channel: `bot.protocol.Phase` has the meanings."""


STAGE_PREFIX = "machine_"
"""Begins the timings of a machine's start that its provider tells, in milliseconds: `machine_pull`."""


class MachineState(StrEnum):
    """A machine's state at its provider. `started` is no promise that the bot in it is ready."""

    requested = "requested"
    started = "started"
    gone = "gone"


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


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """A provider's view of a machine."""

    id: str
    state: MachineState
    exit_code: int | None = None
    """Exit code of the bot's process, where the machine is gone and the provider knows it; 128 + n for signal
    n."""
    output: str = ""
    """The last lines that the bot's process printed, where the machine is gone and the provider has them."""
    out_of_memory_mb: int | None = None
    """The memory that the machine had, in MiB, where it was ended for using all of that."""
    startup: Mapping[str, float] = field(default_factory=dict[str, float])
    """Stage of the machine's start → seconds, where the provider tells: `place`, `pull`, `boot`."""


@dataclass(frozen=True, slots=True)
class End:
    """Why a session is over: a stable code, a sentence for people, and what else is known."""

    reason: str
    message: str
    detail: str | None = None
    exit_code: int | None = None
    retry_after: float | None = None
    """In so many seconds another start may go better: who refused this one said so."""
