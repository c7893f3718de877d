"""The process itself: its age, its load, and its exit."""

from __future__ import annotations

import atexit
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bot import protocol

_PAGE = resource.getpagesize()


def age_seconds() -> float:
    """Return the seconds since the kernel started this process; 0 where unknown (macOS, some sandboxes)."""
    try:
        # The second field is the command in brackets and may hold anything; starttime is field 22.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return max(age, 0.0)


class ProcessClock:
    """Milliseconds since the process began, Python's own start-up included, or since a restart; a week at
    most.

    Args:
        age: The process's age in seconds, as far as the system knows.
        monotonic: Seconds of a monotonic clock.
    """

    def __init__(
        self, age: Callable[[], float] = age_seconds, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._began = monotonic() - age()

    def restart(self) -> None:
        """Count from now on: a machine of the reserve begins with its session."""
        self._began = self._monotonic()

    def milliseconds(self) -> float:
        return protocol.milliseconds((self._monotonic() - self._began) * 1000)


def rss_bytes() -> int:
    """Return the resident memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        # macOS: the peak, in bytes, is the nearest that the standard library knows.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def leave(code: int) -> NoReturn:
    """Run the exit hooks (they flush traces and error reports), then exit, whatever threads still run."""
    # The interpreter's own way out would first join every thread that is not a daemon.
    atexit._run_exitfuncs()
    end_now(code)


def end_now(code: int) -> NoReturn:
    """Exit at once; only printed output is flushed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader of our output is gone, or the bot closed the stream
            continue
    os._exit(code)
