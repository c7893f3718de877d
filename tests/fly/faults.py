"""Faults to order: what goes wrong with the next calls of one operation."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.fly.wire import Answer


@dataclass(frozen=True)
class Fault:
    """A fault of one call.

    Args:
        answer: Given in the place of its own, and nothing is done.
        lose: The request never arrives, or it is done and its answer never does.
        after: Seconds before anything else.
        hold: Once it is done, its answer does not come before this is set.
    """

    answer: Answer | None = None
    lose: Literal["request", "reply"] | None = None
    after: float = 0.0
    hold: threading.Event | None = None


def error(status: int, message: str, code: str | None = None, **headers: str) -> Fault:
    """An error in Fly's shape."""
    body: dict[str, Any] = {"error": message}
    if code is not None:
        body["status"] = code
    return Fault(Answer(status, body, headers))


# As Fly words them.
NO_CAPACITY = error(
    422, "insufficient resources to create new machine in this region", "insufficient_capacity"
)
FULL_HOST = error(
    409,
    "aborted: could not reserve resource for machine: insufficient memory available to fulfill request "
    "on the current host",
)
MACHINE_LIMIT = error(422, "Your organization has reached its machine limit. Please contact billing@fly.io")
MEMORY_QUOTA = error(
    403, 'organization "tests" is using 1970176 MB of memory in dfw which is over the allowed quota'
)
TIMED_OUT = error(408, "deadline_exceeded: request timed out")
THROTTLED_IN_WORDS = error(503, "resource_exhausted: rate limit exceeded")
BROKEN = error(500, "internal: server error")
LOST_REPLY = Fault(lose="reply")
LOST_REQUEST = Fault(lose="request")


@dataclass
class Faults:
    """Ordered faults, by operation. Each is used up by one call."""

    ordered: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))

    def order(self, operation: str, fault: Fault, times: int = 1) -> None:
        self.ordered[operation].extend([fault] * times)

    def clear(self) -> None:
        """Take back what is ordered and was not used up."""
        self.ordered.clear()

    def next(self, operation: str) -> Fault | None:
        waiting = self.ordered.get(operation)
        return waiting.popleft() if waiting else None
