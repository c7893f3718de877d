"""Fly's published rate limits, as token buckets.

One request a second and action, with bursts of three, scoped to the machine, or to the app where there is
none; getting a machine 5 and 10; app deletions 100 a minute. (Fly's documentation, "Working with the Machines
API".)
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limit:
    per_second: float
    burst: float


EVERYTHING = Limit(1, 3)
PUBLISHED = {"Machines_show": Limit(5, 10), "Apps_delete": Limit(100 / 60, 100)}


@dataclass
class Limits:
    """Calls that are left, for each action and identifier."""

    everything: Limit | None = EVERYTHING
    """None: nothing is limited."""
    _left: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)
    """→ tokens, and when that was."""

    def take(self, operation: str, identifier: str, now: float) -> float:
        """Take a call. Gives 0, or in how many seconds there is one again."""
        if self.everything is None:
            return 0.0
        limit = PUBLISHED.get(operation, self.everything)
        key = (operation, "" if operation == "Apps_delete" else identifier)
        tokens, at = self._left.get(key, (limit.burst, now))
        tokens = min(limit.burst, tokens + (now - at) * limit.per_second)
        # A float's dust must not turn away who waited exactly as long as it was told.
        if tokens < 1 - 1e-6:
            self._left[key] = (tokens, now)
            return (1 - tokens) / limit.per_second
        self._left[key] = (tokens - 1, now)
        return 0.0
