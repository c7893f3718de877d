"""When SQLite's log is copied into the database: in a thread, for that is what waits for the disk.

With WAL and synchronous=NORMAL a commit writes to the log and waits for nothing. SQLite would copy the log in
the commit that makes it too long, which takes ten milliseconds and more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

WRITES = 1000
"""So many transactions make the log some 16,000 pages long, or 64 MB. What was written several times is
copied once, and the end of a copy keeps all writers waiting for the disk, some 10 ms: at 200 starts a second
every 2.5 s, which is less than one start in a hundred."""


LOOK_WRITES = 10
"""Between two looks at how long the log is; one takes 2 µs."""

LOG_BYTES = 64 * 1024 * 1024
"""A log that is longer, after starts with large bodies, is copied at once and cut off."""


class Checkpoints:
    """Counts transactions, and has the log copied from time to time, or when it is long.

    Args:
        run: Copies it, in one of SQLite's modes, off the event loop. Gives whether it came to its end.
        size: Returns how many bytes the log has.
    """

    def __init__(self, run: Callable[[str], Awaitable[bool]], size: Callable[[], int]) -> None:
        self._run = run
        self._size = size
        self._grows = False
        """True if the last copy did not come to its end, which was logged then."""
        self._writes = 0
        self._running: asyncio.Task[None] | None = None

    def written(self) -> None:
        """A transaction was kept that does not care for the log's length."""
        self._writes += 1
        # What could not be copied a moment ago cannot be now, and all writers wait for each attempt.
        looks = not self._grows and self._writes % LOOK_WRITES == 0
        is_due = self._writes >= WRITES or (looks and self._size() > LOG_BYTES)
        if is_due and (self._running is None or self._running.done()):
            self._writes = 0
            self._running = asyncio.create_task(self._copy())

    async def close(self) -> None:
        """Let the one finish that is under way."""
        if self._running is not None:
            await asyncio.wait([self._running])

    async def _copy(self) -> None:
        try:
            # Most of it while others write, then the rest while nobody does: else it would never begin anew.
            # With a reader of an older state, such as a backup, it does not, and grows until the next time.
            await self._run("PASSIVE")
            end = "TRUNCATE" if self._size() > LOG_BYTES else "RESTART"
            held_by = None if await self._run(end) else "somebody else writes, or reads an older state"
        except SQLAlchemyError as error:
            held_by = str(error)
        if held_by is None and self._grows:
            log.warning("the log of the database is copied into it again")
        elif held_by is not None and not self._grows:
            words = "the log of the database could not be copied into it, and grows until it can be: %s"
            log.warning(words, held_by)
        self._grows = held_by is not None
