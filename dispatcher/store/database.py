"""One database: where each transaction runs, and whether the database answers.

A caller that waits for a transaction can be cancelled at any time; the transaction cannot: it has not begun,
or it ends.

On SQLite a quick transaction runs on the event loop itself: a few statements about rows that are found by
their keys take 0.1 to 0.3 ms there. In a thread they took several times that, because Python's lock changes
hands with every call of SQLite. Nothing that may take long happens on the loop: a thread does all that waits
for the disk (see `checkpoints`). A transaction that finds the database locked waits until the thread has
done, and comes back to the loop: done in the thread, it would make the next ones find it locked as well, for
seconds. Where another process has the lock, the thread waits for it. Every caller hears within
`engines.BUSY_TIMEOUT_SECONDS` that the database stays locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from dispatcher.store import engines
from dispatcher.store.ballast import Ballast
from dispatcher.store.checkpoints import Checkpoints
from dispatcher.store.rows import execute
from dispatcher.store.threads import InThreads, Runner

T = TypeVar("T")

log = logging.getLogger(__name__)

PG_READ_ONLY = "25006"
"""PostgreSQL's read_only_sql_transaction: a standby that is about to take over, or was left behind."""

Access = Literal["read", "write"]

OnTransaction = Callable[[Access, bool, float], None]
"""Hears of each read and each transaction: whether the database answered, and after how many seconds, the
wait for a thread among them."""


def unobserved(_access: Access, _answered: bool, _seconds: float) -> None:
    """Tell nobody."""


def is_outage(error: BaseException) -> bool:
    """Return True if the transaction may work once the database is back. A refusal or bug is no outage."""
    if isinstance(error, DBAPIError):
        gone = error.connection_invalidated or getattr(error.orig, "sqlstate", None) == PG_READ_ONLY
        return gone or isinstance(error, (OperationalError, InterfaceError))
    # All connections of the pool are busy with transactions that do not end.
    return isinstance(error, PoolTimeout)


class Database:
    """The database behind a SQLAlchemy URL, SQLite or PostgreSQL."""

    def __init__(
        self, url: str | sa.URL, runner: Runner | None = None, on_transaction: OnTransaction = unobserved
    ) -> None:
        parsed = sa.make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        self._threads = InThreads(parsed, runner)
        # A simulation brings a runner of its own, whose clock would wait for no thread.
        self._on_loop = OnLoop(parsed) if is_sqlite and runner is None else None
        self._checkpoints = Checkpoints(self._threads.checkpoint, self._log_bytes)
        self._on_transaction = on_transaction
        self._down = False
        self._down_for_writes = False
        """True if it refuses writes; on a full disk, and a PostgreSQL standby, it may still be read."""
        self._opened: tuple[int, int] | None = None
        self.file = Path(parsed.database) if parsed.database and is_sqlite else None
        has_ballast = self.file is not None and runner is None
        self.ballast = Ballast(Path(f"{self.file}.ballast") if has_ballast else None)

    async def read(self, work: Callable[[sa.Connection], T], *, quick: bool = False) -> T:
        """Return what `work` reads. Every statement is a transaction of its own.

        Args:
            quick: It reads a few rows, by their keys.
        """
        return await self._timed(work, writes=False, quick=quick)

    async def write(self, work: Callable[[sa.Connection], T], *, quick: bool = False) -> T:
        """Run `work` in one transaction; nothing of it is kept if it raises.

        It may run again if it was certainly not kept. A caller that hears of a lost connection does not know
        whether it was.

        Args:
            quick: It writes a few rows, which it finds by their keys.
        """
        return await self._timed(work, writes=True, quick=quick)

    async def migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Make the database's directory if there is none, and run `upgrade` while no other replica does."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            await self._threads.migrate(upgrade)
        except OperationalError as error:
            # A dispatcher that was killed has left its ballast.
            if not engines.is_full(error) or not await self.ballast.give_up():
                raise
            await self._threads.migrate(upgrade)
        self._opened = self._identity()

    def lost_file(self) -> Path | None:
        """Return SQLite's file if it is no longer the one that was opened: what is written goes nowhere."""
        if self._opened is None or self._identity() == self._opened:
            return None
        return self.file

    async def close(self) -> None:
        await self._checkpoints.close()
        await self._threads.close()
        if self._on_loop is not None:
            self._on_loop.close()

    def _identity(self) -> tuple[int, int] | None:
        """Return the device and inode of SQLite's file; None if there is none."""
        if self.file is None:
            return None
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _log_bytes(self) -> int:
        """Return the size of SQLite's log; 0 if there is none."""
        try:
            return os.stat(f"{self.file}-wal").st_size
        except FileNotFoundError:
            return 0

    async def _timed(self, work: Callable[[sa.Connection], T], *, writes: bool, quick: bool) -> T:
        began, answered = time.perf_counter(), True
        until = began + engines.BUSY_TIMEOUT_SECONDS
        try:
            try:
                result = await self._run(work, writes=writes, quick=quick, until=until)
            except OperationalError as error:
                if not writes or not engines.is_full(error):
                    raise
                await self._make_room()
                result = await self._run(work, writes=writes, quick=False, until=until)
            if self._down:
                self._answered(writes=writes)
            return result
        except SQLAlchemyError as error:
            # A constraint that refuses is an answer.
            answered = isinstance(error, IntegrityError)
            self._failed(error, writes=writes)
            raise
        finally:
            self._on_transaction("write" if writes else "read", answered, time.perf_counter() - began)

    async def _run(self, work: Callable[[sa.Connection], T], *, writes: bool, quick: bool, until: float) -> T:
        if quick and self._on_loop is not None:
            return await self._at_once(self._on_loop, work, writes=writes, until=until)
        return await self._in_thread(work, writes=writes, until=until)

    async def _in_thread(self, work: Callable[[sa.Connection], T], *, writes: bool, until: float) -> T:
        return await (self._threads.write(work, until) if writes else self._threads.read(work))

    async def _at_once(
        self, here: OnLoop, work: Callable[[sa.Connection], T], *, writes: bool, until: float
    ) -> T:
        """Run it on the event loop; in a thread, if another process writes just now."""
        while True:
            try:
                result = here.write(work) if writes else here.read(work)
                break
            except OperationalError as error:
                left = until - time.perf_counter()
                if not engines.is_locked(error) or left <= 0:
                    raise
            if not self._threads.writing:
                return await self._in_thread(work, writes=writes, until=until)
            await asyncio.wait(self._threads.writing, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if writes:
            self._checkpoints.written()
        # A caller that runs one after the other lets others have their turn.
        await asyncio.sleep(0)
        return result

    async def _make_room(self) -> None:
        """Give the ballast up, and have SQLite's log begin anew: its file has its room already."""
        if await self.ballast.give_up():
            log.error("the disk of the database is full: what was kept free there goes to ends of sessions")
        with contextlib.suppress(SQLAlchemyError):
            await self._threads.checkpoint("RESTART")

    def _failed(self, error: SQLAlchemyError, *, writes: bool) -> None:
        """Log the beginning of an outage, once, and every fault of ours."""
        if not is_outage(error):
            # Not an outage, so a retry must not pass over it as one.
            if not isinstance(error, IntegrityError):
                log.error("the database refused a transaction", exc_info=error)
            return
        self._down_for_writes = self._down_for_writes or writes
        if not self._down:
            self._down = True
            reason = str(getattr(error, "orig", None) or error).strip()
            log.error("the store does not answer: %s", reason)

    def _answered(self, *, writes: bool) -> None:
        if writes or not self._down_for_writes:
            self._down = self._down_for_writes = False
            log.warning("the store answers again")


class OnLoop:
    """SQLite's connection that the event loop uses, and keeps. It waits for no lock, and copies no log.

    Its transactions are begun and ended here: to take a connection from the pool, have SQLAlchemy begin and
    give it back takes a fifth of the time of a short one.
    """

    def __init__(self, url: sa.URL) -> None:
        self._engine = engines.sqlite(url, connections=1, busy_timeout=0, checkpoints=False)
        # SQLAlchemy is not to begin any.
        self._reading = self._engine.execution_options(**{engines.READ_ONLY: True})
        self._kept: sa.Connection | None = None

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        connection = self._connection()
        try:
            return work(connection)
        finally:
            connection.rollback()

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        connection = self._connection()
        execute(connection, "BEGIN IMMEDIATE")
        try:
            result = work(connection)
            execute(connection, "COMMIT")
        except BaseException:
            # The pool undoes what was begun, and drops a connection with which that fails.
            self._kept = None
            connection.close()
            raise
        # SQLAlchemy takes it for a transaction of its own, where `work` has used it.
        connection.rollback()
        return result

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._engine.dispose()

    def _connection(self) -> sa.Connection:
        if self._kept is None:
            self._kept = self._reading.connect()
        return self._kept
