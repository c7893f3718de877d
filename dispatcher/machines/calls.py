"""Record of a call to a machines API that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dispatcher.machines.failover import Faulty
from dispatcher.machines.provider import Action, NoCapacity, QuotaReached, Rejected, Throttled, Unreachable

CallOutcome = Literal[
    "ok", "throttled", "no_capacity", "quota_reached", "rejected", "unreachable", "faulty", "cancelled"
]
"""Outcome of a call: an answer, an error by its kind (`faulty`: an exception that a provider must not raise),
or `cancelled`."""


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """One call to a machines API; each repetition is a call. Times are Unix seconds."""

    placement: str
    provider: str
    action: Action
    outcome: CallOutcome
    began_at: float
    ended_at: float
    error: str = ""
    """The provider's message."""

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended_at - self.began_at)


OnCall = Callable[[ProviderCall], None]
"""Called after every call, in the task that made it."""


def unobserved(_call: ProviderCall) -> None:
    """Ignore the call."""


def outcome_of(error: BaseException | None) -> CallOutcome:
    match error:
        case None:
            return "ok"
        case Throttled():
            return "throttled"
        case NoCapacity():
            return "no_capacity"
        case QuotaReached():
            return "quota_reached"
        case Rejected():
            return "rejected"
        case Faulty():
            return "faulty"
        case Unreachable():
            return "unreachable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "faulty"
