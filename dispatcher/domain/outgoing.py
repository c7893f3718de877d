"""Messages to the deployment's own back end about its sessions: which there are, and when each is sent again.

Messages follow from a session's timeline, so none can be written without its event. Each type occurs once in
a session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from dispatcher.domain.model import Session, SessionState
from dispatcher.domain.timeline import Event, Kind

MessageType = Literal["session.started", "session.ready", "session.ended", "session.failed"]

TYPES: dict[Kind, MessageType] = {
    "machine-started": "session.started",
    "ready": "session.ready",
    "ended": "session.ended",
    "failed": "session.failed",
}
"""Kind of an event → type of its message."""

RANKS: dict[MessageType, int] = {
    "session.started": 1,
    "session.ready": 2,
    "session.ended": 3,
    "session.failed": 3,
}
"""Place of each type among the messages of its session, which are sent in this order."""

MINUTE, HOUR = 60.0, 3600.0
RETRIES = (5.0, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""Seconds between the attempts, as the specification of Standard Webhooks recommends: 75 hours in all."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is not delivered yet."""

    session_id: str
    type: MessageType
    at: float
    """Unix seconds of its event."""
    attempts: int = 0
    """Attempts that failed."""

    @property
    def id(self) -> str:
        """The message's id, the same in every attempt: its receiver can tell repetitions by it."""
        return f"msg_{self.session_id}_{self.type.removeprefix('session.')}"

    @property
    def rank(self) -> int:
        """Place among the messages of its session."""
        return RANKS[self.type]

    @property
    def wait(self) -> float | None:
        """Seconds from the attempt that has just failed to the next one; None if there is none."""
        return RETRIES[self.attempts] if self.attempts < len(RETRIES) else None


def following(session_id: str, events: Iterable[Event]) -> list[Outgoing]:
    """Return the messages about events of a session."""
    return [Outgoing(session_id, TYPES[event.kind], event.at) for event in events if event.kind in TYPES]


def had(session: Session) -> Iterator[Outgoing]:
    """Yield the messages that a session has had so far, from its row."""
    end: MessageType = "session.failed" if session.state is SessionState.failed else "session.ended"
    times: dict[MessageType, float | None] = {
        "session.started": session.started_at,
        "session.ready": session.ready_at,
        end: session.ended_at if session.over else None,
    }
    for type_, at in times.items():
        if at is not None:
            yield Outgoing(session.id, type_, at)
