"""A circuit breaker as a value.

    closed ──FAILURES in a row──→ open ──after a while──→ probing ──success──→ closed
                                   ↑                        │
                                   └────────failure─────────┘ for twice as long

While it is open nobody is let through; then one is, as a probe, and the others wait for its outcome. A probe
whose outcome never comes is followed by another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FAILURES = 3
"""Failures in a row that open the breaker: one lost packet is not an outage."""

OPEN_SECONDS = 10.0
"""Time for which it first opens. A start that is refused meanwhile fails over in milliseconds."""

LONGEST_OPEN_SECONDS = 120.0
"""Longest time for which it opens: a recovery is noticed at most that late."""

PROBE_SECONDS = 60.0
"""Time without an outcome after which a probe counts as lost: its start may have been cancelled."""


BreakerState = Literal["closed", "open", "probing"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker of one placement."""

    failures: int = 0
    """Failures in a row."""
    openings: int = 0
    """Openings in a row."""
    probing: bool = False
    shut_until: float = float("-inf")
    """Moment until which all starts are refused."""

    @property
    def tripped(self) -> bool:
        """True if it is open or probing."""
        return self.openings > 0

    @property
    def state(self) -> BreakerState:
        if not self.tripped:
            return "closed"
        return "probing" if self.probing else "open"

    def admit(self, now: float) -> tuple[Breaker, bool]:
        """Ask to start. After the breaker had opened, the first that is let through is its probe."""
        if not self.tripped:
            return self, True
        if now < self.shut_until:
            return self, False
        return replace(self, probing=True, shut_until=now + PROBE_SECONDS), True

    def worked(self) -> Breaker:
        """Record that a call was answered."""
        return Breaker()

    def failed(self, now: float) -> Breaker:
        """Record that a call was not answered."""
        failures = self.failures + 1
        if failures < FAILURES or (self.tripped and not self.probing):
            # Already open: calls that were under way when it opened say nothing new.
            return replace(self, failures=failures)
        # The exponent is bounded, or a long outage would overflow a float.
        seconds = min(OPEN_SECONDS * 2 ** min(self.openings, 16), LONGEST_OPEN_SECONDS)
        return Breaker(failures, self.openings + 1, probing=False, shut_until=now + seconds)
