"""A token bucket as a value: it answers when the next call may go out, and forgets nothing it promised.

A bucket is kept as the one moment in which it would be full again (the generic cell rate algorithm): each
call moves that moment on by one interval, and a call may go out as soon as the moment is no further ahead
than the burst allows. Turns are given in the order in which they were asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate of an action: `burst` calls at once, and `per_second` in the long run."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if not (self.per_second > 0 and self.burst >= 1):
            raise ValueError(f"a rate needs per_second > 0 and burst >= 1, not {self}")


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """The calls of one action. Times are seconds of whatever clock the caller uses."""

    rate: Rate | None = None
    """None: calls go out at once, unless they are held."""
    full_at: float = float("-inf")
    held_until: float = float("-inf")

    def reserve(self, now: float, longest_wait: float) -> tuple[TokenBucket, float, bool]:
        """Ask for a turn.

        Returns:
            The bucket afterwards; in how many seconds the turn comes; and whether it was taken, which it is
            if it comes within `longest_wait` seconds. A turn that was taken and not used is lost.
        """
        wait = self.wait(now)
        if wait > longest_wait:
            return self, wait, False
        full_at = max(self.full_at, now + wait) + self._interval
        return replace(self, full_at=full_at), wait, True

    def wait(self, now: float) -> float:
        """Return in how many seconds a turn would come."""
        ahead = (self.rate.burst - 1) * self._interval if self.rate else 0.0
        at = max(now, self.held_until, self.full_at - ahead)
        # Unix time has steps of 0.24 µs, and a burst adds them up: what is no further ahead is now.
        steps = math.ulp(at) * self.rate.burst if self.rate else 0.0
        return at - now if at - now > steps else 0.0

    def hold(self, now: float, seconds: float) -> TokenBucket:
        """Let nobody through for so long: the API itself said so."""
        return replace(self, held_until=max(self.held_until, now + seconds))

    @property
    def _interval(self) -> float:
        return 1 / self.rate.per_second if self.rate else 0.0
