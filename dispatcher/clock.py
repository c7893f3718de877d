"""Clocks, injected: tests run hours of timeouts in microseconds on a virtual clock."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
"""Nanoseconds in a second."""

SLEW = 10
"""The clock runs at most 1/SLEW faster or slower than time passes, until it agrees with the system's again.

Timeouts are off by that much meanwhile, which is less than the lease allows two clocks to differ
(`sessions/maintenance/leader.py`).
"""

ADOPTED_SECONDS = 30
"""Largest difference that is corrected slowly; beyond it the system's clock was set, or the machine was
paused.

While this clock catches up it is wrong: deadlines that other replicas write come too early or too late, and
Daily and TURN servers see tokens that are not valid yet, or no longer. Deadlines and tokens tolerate half a
minute for the five minutes that the correction takes; a larger step is better taken at once.
"""


class Clock(Protocol):
    """A clock: wall time, monotonic time, and sleep."""

    def now(self) -> float:
        """Return Unix seconds, for dates and for moments that replicas share."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a monotonic clock, for intervals within this process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


def _elapsed() -> int:
    """Return the nanoseconds since some moment, including those in which the machine slept."""
    # macOS lacks this clock; there, monotonic time goes on in sleep.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SystemClock:
    """The system's wall clock, without its steps.

    Deadlines, limits and leases must see no jump when NTP or a person corrects the clock a little: this clock
    catches up slowly (`SLEW`) and never goes backwards. A larger difference (`ADOPTED_SECONDS`) is adopted at
    once, in either direction, with a warning. Thread-safe.

    Args:
        wall: The system's clock, in Unix nanoseconds.
        elapsed: A monotonic clock, in nanoseconds.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, elapsed: Callable[[], int] = _elapsed) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._elapsed_at = elapsed()
        # Integers: with frequent calls, rounding would lose the correction.
        self._now = wall()

    def now(self) -> float:
        with self._lock:
            elapsed = self._elapsed()
            passed, self._elapsed_at = elapsed - self._elapsed_at, elapsed
            behind = self._wall() - (self._now + passed)
            adopted = abs(behind) > ADOPTED_SECONDS * NANOSECONDS
            most = passed // SLEW
            self._now += passed + (behind if adopted else max(-most, min(behind, most)))
            now = self._now / NANOSECONDS
        if adopted:
            log.warning(
                "the system's clock was set %s by %.0f s, and so is the dispatcher's: deadlines from before"
                " come %s by as much",
                "forward" if behind > 0 else "back",
                abs(behind) / NANOSECONDS,
                "earlier" if behind > 0 else "later",
            )
        return now

    def monotonic(self) -> float:
        return self._elapsed() / NANOSECONDS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
