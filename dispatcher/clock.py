"""Time, injected: tests run hours of timeouts in microseconds on a clock of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

NANOSECONDS = 1_000_000_000
"""In a second."""

SLEW = 10
"""The clock runs at most one part in so many faster or slower than time passes, until it agrees with the
system's again. Timeouts are that much off meanwhile, which is less than what the lease leaves for two clocks
that differ (`sessions/maintenance/leader.py`)."""

ADOPTED_SECONDS = 30
"""A larger difference is no drift: the system's clock was set, or the machine was paused. While this one
catches up it is wrong: what another replica writes has a deadline too early or too late, and Daily and TURN
servers see tokens that are no longer or not yet good. Deadlines and tokens bear half a minute, and that for
no more than the five minutes that it takes; a step that they do not bear is better done with at once."""


class Clock(Protocol):
    """A clock: wall time, monotonic time, and sleep."""

    def now(self) -> float:
        """Unix seconds: for dates, and for moments that replicas share."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, which nobody sets: for intervals within this process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


def _elapsed() -> int:
    """Nanoseconds that have passed, those in which the machine slept among them, since some moment."""
    # macOS has none of this name; there, monotonic time goes on in sleep as well.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SystemClock:
    """The system's wall clock, without its steps.

    Where that is corrected by a little (by NTP, by hand), deadlines, limits and leases must see no jump: this
    clock catches up with it (`SLEW`), and does not go backwards. Only a difference that no drift explains
    (`ADOPTED_SECONDS`: it was set, or the whole machine was paused) is taken over at once, in either
    direction, with a warning.

    Any thread may ask it.

    Args:
        wall: The system's clock, in Unix nanoseconds.
        elapsed: Nanoseconds that have passed since any moment; nobody sets it.
    """

    def __init__(self, wall: Callable[[], int] = time.time_ns, elapsed: Callable[[], int] = _elapsed) -> None:
        self._wall = wall
        self._elapsed = elapsed
        self._lock = threading.Lock()
        self._elapsed_at = elapsed()
        # Whole numbers: who asks often would lose in rounding what is to be caught up with.
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
