"""Measures of a session, derived from the session as it was and as it is: values in, values out.

    asked ──queued──▶ admitted ──machine──▶ started ──boot──▶ waiting ──pipeline──▶ ready ──client──▶ active
      └─────────────────────────── a whole start ────────────────────────────────────┘

A change that is written once is measured once, by the replica that wrote it: nothing is counted twice, summed
over replicas and restarts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dispatcher.domain.model import Session

Measure = Literal["starts", "ends", "phase", "start", "duration", "first_word", "turn"]

Phase = Literal["queued", "machine", "boot", "pipeline", "client"]

STAGES = frozenset({"machine_place", "machine_pull", "machine_boot"})
"""Parts of the phase `machine`, which a provider tells."""

READY = "ok"
"""The outcome of a start whose bot became ready; any other is the reason for which it did not."""

OTHER = "other"
"""Replaces an unknown reason, so that a new one never makes series without bound."""

END_REASONS = frozenset(
    {
        "abandoned",
        "bot_error",
        "completed",
        "idle_timeout",
        "internal_error",
        "invalid_bot",
        "join_refused",
        "machine_exited",
        "machine_killed",
        "machine_lost",
        "machine_stopped",
        "max_duration",
        "never_ready",
        "no_capacity",
        "no_client",
        "out_of_memory",
        "queue_timeout",
        "quota_reached",
        "rejected",
        "room_rejected",
        "room_throttled",
        "room_unreachable",
        "start_timeout",
        "stopped",
        "throttled",
        "unreachable",
        "unresponsive",
    }
)
"""Every reason of an end; a test compares it with the code."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One value. Times are in seconds; `starts` and `ends` are counted.

    Attributes:
        kind: The outcome of a start, the reason of an end, the name of a phase; else empty.
    """

    measure: Measure
    value: float
    kind: str = ""


def measured(before: Session | None, after: Session) -> Iterator[Measured]:
    """Yield the measures of a change. `before` is None for a session that is new."""
    if before is None:
        return
    for phase, since, until in phases(before, after):
        yield Measured("phase", max(0.0, until - since), phase)
    new = after.timings.keys() - before.timings.keys() if after.timings is not before.timings else ()
    for stage in sorted(STAGES.intersection(new)):
        yield Measured("phase", after.timings[stage] / 1000, stage)
    if before.ready_at is None and after.ready_at is not None:
        yield Measured("starts", 1, READY)
        yield Measured("start", max(0.0, after.ready_at - after.created_at))
    if before.first_word_ms is None and after.first_word_ms is not None:
        yield Measured("first_word", after.first_word_ms / 1000)
    if after.turns_ms and after.turns_ms != before.turns_ms:
        yield Measured("turn", after.turns_ms[-1] / 1000)
    if after.over and not before.over:
        reason = after.reason if after.reason in END_REASONS else OTHER
        yield Measured("ends", 1, reason)
        if after.ready_at is None:
            yield Measured("starts", 1, reason)
        elif after.ended_at is not None:
            yield Measured("duration", max(0.0, after.ended_at - after.ready_at))


def phases(before: Session, after: Session) -> Iterator[tuple[Phase, float, float]]:
    """The phases that ended with this change: their names, beginnings and ends."""
    earlier = dict(_ends(before))
    since = after.created_at
    for phase, at in _ends(after):
        if at is None:
            continue
        if earlier[phase] is None:
            yield phase, since, at
        since = at


def phase_of(session: Session) -> tuple[Phase | None, float]:
    """Return a session's phase, or the last one before its end, and since when; None after the last one."""
    since, is_in = session.created_at, None
    for phase, at in reversed(_ends(session)):
        if at is not None:
            since = at
            break
        is_in = phase
    return is_in, since


def _ends(session: Session) -> tuple[tuple[Phase, float | None], ...]:
    """Return the time at which each phase ended, in their order."""
    return (
        ("queued", session.admitted_at),
        ("machine", session.started_at),
        ("boot", session.waiting_at),
        ("pipeline", session.ready_at),
        ("client", session.active_at),
    )
