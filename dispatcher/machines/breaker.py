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
"""So many failures in a row open it: one lost packet is no outage."""

OPEN_SECONDS = 10.0
"""For how long it opens first; a start that is spared an outage fails over in milliseconds."""

LONGEST_OPEN_SECONDS = 120.0
"""For how long it opens at most: so late may a recovery be noticed."""

PROBE_SECONDS = 60.0
"""After so long without an outcome a probe is taken for lost: its start may have been called off."""


BreakerState = Literal["closed", "open", "probing"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """The breaker of one placement."""

    failures: int = 0
    """In a row."""
    openings: int = 0
    """How often it opened in a row."""
    probing: bool = False
    shut_until: float = float("-inf")
    """Nobody is let through before that moment."""

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
        """Ask to be let through. Where it had opened, the one who is let through is its probe."""
        if not self.tripped:
            return self, True
        if now < self.shut_until:
            return self, False
        return replace(self, probing=True, shut_until=now + PROBE_SECONDS), True

    def worked(self) -> Breaker:
        """A call was answered."""
        return Breaker()

    def failed(self, now: float) -> Breaker:
        """A call was not answered."""
        failures = self.failures + 1
        if failures < FAILURES or (self.tripped and not self.probing):
            # The second: calls that were under way when it opened say nothing new.
            return replace(self, failures=failures)
        # The exponent is bounded, or a long outage would overflow a float.
        seconds = min(OPEN_SECONDS * 2 ** min(self.openings, 16), LONGEST_OPEN_SECONDS)
        return Breaker(failures, self.openings + 1, probing=False, shut_until=now + seconds)
