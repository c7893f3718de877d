"""A token bucket as a value: says when the next call may go out.

The bucket is stored as the moment at which it would be full again (the generic cell rate algorithm, GCRA):
each call moves that moment on by one interval, and a call may go out once the moment is no further ahead than
the burst allows. Turns are given in the order of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dispatcher.clock import Clock
from dispatcher.domain.errors import RateExceeded
from dispatcher.keys import KeySettings


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
    """A token bucket (GCRA) for the calls of one action. Times are seconds of the caller's clock."""

    rate: Rate | None = None
    """None: no limit, unless calls are held."""
    full_at: float = float("-inf")
    held_until: float = float("-inf")

    def reserve(self, now: float, longest_wait: float) -> tuple[TokenBucket, float, bool]:
        """Reserve a turn.

        Returns:
            The bucket afterwards; the seconds until the turn; and whether it was reserved, which it is if it
                comes within `longest_wait` seconds. A reserved turn that is not used is lost.
        """
        wait = self.wait(now)
        if wait > longest_wait:
            return self, wait, False
        full_at = max(self.full_at, now + wait) + self._interval
        return replace(self, full_at=full_at), wait, True

    def wait(self, now: float) -> float:
        """Return the seconds until a turn."""
        ahead = (self.rate.burst - 1) * self._interval if self.rate else 0.0
        at = max(now, self.held_until, self.full_at - ahead)
        # Unix time as a float has steps of 0.24 µs, which a burst adds up; a smaller wait counts as none.
        steps = math.ulp(at) * self.rate.burst if self.rate else 0.0
        return at - now if at - now > steps else 0.0

    def hold(self, now: float, seconds: float) -> TokenBucket:
        """Let no call out for so long, as the API itself asked."""
        return replace(self, held_until=max(self.held_until, now + seconds))

    @property
    def _interval(self) -> float:
        return 1 / self.rate.per_second if self.rate else 0.0


class StartRates:
    """Rates at which keys may start sessions, counted by each dispatcher for itself.

    There is one bucket for each name: the old and the new key of one caller draw from the same.
    """

    def __init__(self, keys: Iterable[KeySettings], clock: Clock) -> None:
        self._clock = clock
        rates = {key.name: rate for key in keys if (rate := key.start_rate) is not None}
        self._buckets = {name: TokenBucket(Rate(rate.per_second, rate.burst)) for name, rate in rates.items()}
        self._under_way: set[tuple[str | None, str | None]] = set()

    def count(self, owner: str | None, idempotency_key: str | None) -> bool:
        """Count a start of the owner's keys. True if its key must be given to `done` when the start is over.

        A start that is repeated while it is under way counts once. A later repetition is known by its
        session, and is not to be counted at all.

        Raises:
            RateExceeded: one too many; it says when to come again.
        """
        if owner is None or owner not in self._buckets:
            return False
        if idempotency_key is None:
            self._count(owner)
            return False
        if (owner, idempotency_key) in self._under_way:
            return False
        self._count(owner)
        self._under_way.add((owner, idempotency_key))
        return True

    def done(self, owner: str | None, idempotency_key: str | None) -> None:
        """Forget a start that was counted: it is over."""
        self._under_way.discard((owner, idempotency_key))

    def _count(self, name: str) -> None:
        bucket, wait, taken = self._buckets[name].reserve(self._clock.monotonic(), longest_wait=0)
        if not taken:
            # Whole seconds, and never too few of them.
            seconds = math.ceil(wait)
            message = f"The key '{name}' starts sessions too fast; try again in {seconds} s."
            raise RateExceeded(message, retry_after=seconds)
        self._buckets[name] = bucket
