"""Reports on calls to the API that rooms come from, when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dispatcher.transports.errors import NoAnswer, Refused, TooManyCalls

RoomAction = Literal["get_domain", "create_room", "get_room", "delete_room", "create_token"]

RoomCallOutcome = Literal["ok", "throttled", "rejected", "unreachable", "faulty", "cancelled"]
"""Outcome of a call: an answer, an error by its kind (`faulty`: one of ours), or nobody waited any more."""


@dataclass(frozen=True, slots=True)
class RoomCall:
    """One call, repetitions counted apart."""

    action: RoomAction
    outcome: RoomCallOutcome
    seconds: float
    """Until its answer, without the wait for its turn."""


OnRoomCall = Callable[[RoomCall], None]
"""Is told of every call when it has ended, in the task that made it."""


def unobserved(_call: RoomCall) -> None:
    """Tell nobody."""


def outcome_of(error: BaseException | None) -> RoomCallOutcome:
    match error:
        case None:
            return "ok"
        case TooManyCalls():
            return "throttled"
        case Refused():
            return "rejected"
        case NoAnswer():
            return "unreachable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "faulty"
