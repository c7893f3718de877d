"""A cloud's log that is asked again and again, each of its lines printed once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

BEGIN_SECONDS = 600.0
"""Part of a log that is shown of what was there before."""

LATE_SECONDS = 60.0
"""Time by which a line may come later than others with a later stamp: log drivers send in batches."""

MOST_SEEN = 20_000
"""Lines that are known as printed. With more of them in `LATE_SECONDS` one may be printed twice."""


class Seen:
    """Keys of the lines that were printed, the newest `MOST_SEEN` of them."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def is_new(self, key: Hashable) -> bool:
        """Return True the first time, and remember the key."""
        if key in self._keys:
            return False
        self._keys[key] = None
        return True

    def forget(self) -> None:
        """Forget the oldest beyond the limit, between two looks: one look may show its lines again."""
        while len(self._keys) > MOST_SEEN:
            self._keys.popitem(last=False)


def follow(look: Callable[[], None], seconds: float, *, once: bool) -> None:
    """Look for lines at this interval, for ever; with `once` a single time."""
    while True:
        look()
        if once:
            return
        time.sleep(seconds)
