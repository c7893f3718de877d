"""Ends a process whose event loop hangs, so that its supervisor restarts it.

A Docker engine restarts a container that exits, but not one whose health command fails. The timer is the
interpreter's own (`faulthandler`), whose thread does not need Python's lock. Before it ends the process, with
status 1, it writes every thread's stack to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncIterator

HANG_SECONDS = 60.0
"""Limit on a hang, by the monotonic clock, which stops while the host sleeps. No call of the dispatcher's
blocks the loop for a second."""

BEATS = 6
"""Number of times within HANG_SECONDS that the loop resets the timer."""


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[None]:
    """Watch this process's event loop for as long as the block runs. A process has only one such timer."""
    beating = asyncio.create_task(_beat())
    try:
        yield
    finally:
        beating.cancel()
        faulthandler.cancel_dump_traceback_later()


async def _beat() -> None:
    while True:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        await asyncio.sleep(HANG_SECONDS / BEATS)
