"""Ends a process whose event loop hangs, so that what started it starts it again.

A Docker engine starts a container again that has ended, and leaves one alone whose health command fails. The
timer is the interpreter's own (`faulthandler`), whose thread needs no lock of Python's. Before it ends the
process, with status 1, it writes to stderr where each thread was.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
from collections.abc import AsyncIterator

HANG_SECONDS = 60.0
"""Of the monotonic clock, which stands while the host sleeps. No call of ours holds the loop for a second."""

BEATS = 6
"""How often within HANG_SECONDS the loop shows that it lives."""


@contextlib.asynccontextmanager
async def watching() -> AsyncIterator[None]:
    """Watch this process's event loop, until it is left. There is one timer in a process."""
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
