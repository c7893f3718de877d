"""Records of calls to the API of a transport's rooms."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dispatcher.transports.errors import NoAnswer, Refused, TooManyCalls

RoomAction = Literal["get_domain", "create_room", "get_room", "delete_room", "create_token"]

RoomCallOutcome = Literal["ok", "throttled", "rejected", "unreachable", "faulty", "cancelled"]
"""Outcome of a call: an answer, an error by its kind (`faulty`: a bug here), or `cancelled`."""


@dataclass(frozen=True, slots=True)
class RoomCall:
    """One call; each repetition is a call."""

    action: RoomAction
    outcome: RoomCallOutcome
    seconds: float
    """Time until the answer, without the wait for its turn."""


OnRoomCall = Callable[[RoomCall], None]
"""Called after every call, in the task that made it."""


def unobserved(_call: RoomCall) -> None:
    """Ignore the call."""


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
