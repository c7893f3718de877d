"""How often each key may start sessions. Every dispatcher counts for itself."""

from __future__ import annotations

import math
from collections.abc import Iterable

from dispatcher.clock import Clock
from dispatcher.domain.errors import RateExceeded
from dispatcher.keys import KeySettings
from dispatcher.rate_limit import Rate, TokenBucket


class StartRates:
    """A bucket for each name: the old and the new key of one caller draw from the same."""

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
