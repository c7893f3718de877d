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
"""The live states that count against `max_sessions`; so do ended sessions whose machines are ending
(`has_slot`)."""
OVER = (SessionState.ended, SessionState.failed)
RoomState = Literal["wanted", "open", "found", "doubted", "closed"]
Phase = Literal["booting", "idle", "loading", "waiting", "starting", "ready", "active", "ending"]
"""Phase of a machine, as it reports over its channel: `bot.protocol.Phase` has the meanings."""


STAGE_PREFIX = "machine_"
"""Begins the timings of a machine's start that its provider tells, in milliseconds: `machine_pull`."""


class MachineState(StrEnum):
    """A machine's state. `started` does not mean that its bot is ready.

    Only machines of the reserve have the four in between: `idle` (waits for a session), `claimed` (a session
    has it, and it has not said yet that it serves it), `assigned` (it serves its session), `retired` (it is
    being ended, without a session). Providers tell only the other three.
    """

    requested = "requested"
    started = "started"
    idle = "idle"
    claimed = "claimed"
    assigned = "assigned"
    retired = "retired"
    gone = "gone"


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation. Times are Unix seconds; None for events that have not happened."""

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
    """The agent's limit when the session was started: a later deployment does not change it."""
    created_at: float
    idle_timeout_seconds: float | None = None
    """Longest time without a client, once there was one. None: the session is older than this limit."""
    queue_seconds: float = 0.0
    """Longest wait for a slot."""
    admitted_at: float | None = None
    """Time of admission; the deadlines of start and session run from here."""
    idle_since: float | None = None
    """Time since when no client is connected; None while one is, and before one could be."""
    phase: Phase | None = None
    started_at: float | None = None
    """Time when the provider reported the machine as started."""
    waiting_at: float | None = None
    """Time when the machine could take its client."""
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
    """The W3C trace context of the session's spans."""
    retry_at: float | None = None
    """For a failed session: time from which on another start may succeed, if known."""
    owner: str | None = None
    """The name of the key that started it; None if none was needed."""
    room: dict[str, Any] | None = field(default=None, repr=False)
    """Its `Room`, with the bot's token, if its transport has rooms."""
    room_state: RoomState | None = None
    line_until: float | None = None
    """Time until which the ended session keeps its slot, as its machine is not known to be gone."""

    @property
    def has_slot(self) -> bool:
        """True if the session counts against `max_sessions`."""
        return self.state in ADMITTED or self.line_until is not None

    @property
    def over(self) -> bool:
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a session, or of the reserve."""

    id: str
    session_id: str | None
    provider: str
    state: MachineState
    created_at: float
    gone_at: float | None = None
    exit_code: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    placement: str | None = None
    """The placement that has the machine, or may have it; None if none was asked yet."""
    create_by: float | None = None
    """Time after which nobody requests the machine."""
    launcher: str | None = None
    """The replica that requests the machine, and its session's room; for a `claimed` one, that assigns it."""
    agent: str | None = None
    """The agent that a machine of the reserve was made for; None for one that was made for its session."""
    revision: str | None = None
    """Fingerprint of all that such a machine was made from."""
    seen_at: float | None = None
    """Time when such a machine said first that it waits."""


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """A provider's view of a machine."""

    id: str
    state: MachineState
    exit_code: int | None = None
    """Exit code of the bot's process, if the machine is gone and the provider knows it; 128 + n for
    signal n."""
    output: str = ""
    """The last lines of the bot's output, if the machine is gone and the provider has them."""
    out_of_memory_mb: int | None = None
    """The machine's memory, in MiB, if it was killed for using all of it."""
    startup: Mapping[str, float] = field(default_factory=dict[str, float])
    """Stage of the machine's start → seconds, where the provider tells: `place`, `pull`, `boot`."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a session: a stable code, a sentence for people, and details."""

    reason: str
    message: str
    detail: str | None = None
    exit_code: int | None = None
    retry_after: float | None = None
    """Seconds after which another start may succeed, if the refusal said so."""


RESERVE_PREFIX = "m-r"
"""Begins the ids of machines of the reserve; a session's own machine is `m-` and a UUID, which has no r."""


def is_of_reserve(machine_id: str) -> bool:
    """Return True if the machine was made for the reserve."""
    return machine_id.startswith(RESERVE_PREFIX)
