"""How often each key may start sessions. Every dispatcher counts for itself."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

from dispatcher.api.access import Caller
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
        self._under_way: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def start(self, caller: Caller, idempotency_key: str | None) -> Iterator[Callable[[], None]]:
        """Gives what counts a start of the caller's, for as long as the start is under way.

        A start that is repeated while it is under way counts once. A later repetition is known by its
        session, and is not to be counted at all.

        Raises:
            RateExceeded: by what counts; it says when to come again.
        """
        name = caller.owner
        if name is None or name not in self._buckets:
            yield lambda: None
            return
        if idempotency_key is None:
            yield lambda: self._count(name)
            return
        start, counted = (name, idempotency_key), False

        def count() -> None:
            nonlocal counted
            if start not in self._under_way:
                self._count(name)
                self._under_way.add(start)
                counted = True

        try:
            yield count
        finally:
            if counted:
                self._under_way.discard(start)

    def _count(self, name: str) -> None:
        bucket, wait, taken = self._buckets[name].reserve(self._clock.monotonic(), longest_wait=0)
        if not taken:
            # Whole seconds, and never too few of them.
            seconds = math.ceil(wait)
            message = f"The key '{name}' starts sessions too fast; try again in {seconds} s."
            raise RateExceeded(message, retry_after=seconds)
        self._buckets[name] = bucket
