"""Transactions in threads, synchronously and whole, with a second attempt where that can help.

SQLite has one writer, so one thread writes. PostgreSQL gets as many threads as it gets connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from dispatcher.store import engines

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECKPOINT_WAIT_SECONDS = 0.05
"""Limit on the wait of a checkpoint for readers of an older state; all writers wait with it."""

WRITER_NICENESS = 5
"""Niceness of the thread for SQLite's writes, above the process's. A start needs the event loop's thread and
no other; next to a copy of the log, on one core, it had half of the time. At 200 starts per second the
slowest hundredth took 16 to 23 ms, and takes 9 (`tests.bench.starts`; with 10 the same)."""

TRANSIENT = frozenset({"40001", "40P01"})
"""PostgreSQL's serialization_failure and deadlock_detected: the same transaction may work now."""

ATTEMPTS = 3


class Runner(Protocol):
    """Runs transactions."""

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        """Run `work` once, whole, even if the caller is cancelled meanwhile."""
        ...

    async def close(self) -> None:
        """Let everything finish that was begun."""
        ...


class Threads:
    """Two pools of threads, for reads and for writes.

    Args:
        writers_give_way: True to let the event loop's thread have a core before those that write.
    """

    def __init__(self, readers: int, writers: int, *, writers_give_way: bool = False) -> None:
        self._readers = ThreadPoolExecutor(readers, "store-reader")
        begin = _give_way if writers_give_way else None
        self._writers = ThreadPoolExecutor(writers, "store-writer", initializer=begin)

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        executor = self._writers if writes else self._readers
        return await asyncio.get_running_loop().run_in_executor(executor, work)

    async def close(self) -> None:
        for executor in (self._writers, self._readers):
            await asyncio.to_thread(executor.shutdown)


class InThreads:
    """Runs transactions off the event loop.

    Args:
        runner: In the place of threads.
    """

    def __init__(self, url: sa.URL, runner: Runner | None = None) -> None:
        self._engine = engines.of(url)
        self._is_postgres = self._engine.dialect.name == "postgresql"
        autocommit = {"isolation_level": "AUTOCOMMIT"} if self._is_postgres else {}
        self._reading = self._engine.execution_options(**{engines.READ_ONLY: True}, **autocommit)
        # Only SQLite's event loop connection waits for the writer.
        self._shares_no_lock = runner is not None or self._is_postgres
        self._runner = runner or _threads(self._is_postgres)
        self.writing: set[asyncio.Future[Any]] = set()
        """Transactions of SQLite's writer, under way and waiting."""

    async def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return what `work` reads. Every statement is a transaction of its own."""
        return await self._runner.run(lambda: _again(self._read, work), writes=False)

    async def write(self, work: Callable[[sa.Connection], T], until: float) -> T:
        """Run `work` in one transaction, which waits until then for SQLite's lock (`time.perf_counter`)."""
        return await self._write_whole(lambda: _again(partial(self._write, until), work))

    async def migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Run `upgrade` while no other replica does."""
        await self._runner.run(lambda: _again(self._migrate, upgrade), writes=True)

    async def checkpoint(self, mode: str) -> bool:
        """Copy SQLite's log in this mode. True if the copy came to its end."""

        def run() -> bool:
            with self._reading.connect() as connection:
                engines.wait_at_most(connection, CHECKPOINT_WAIT_SECONDS)
                # SQLite's answer: whether it was kept from it, and two counts of pages.
                return not connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()[0]

        return await self._write_whole(run)

    async def close(self) -> None:
        await self._runner.close()
        self._engine.dispose()

    async def _write_whole(self, work: Callable[[], T]) -> T:
        if self._shares_no_lock:
            return await self._runner.run(work, writes=True)
        running = asyncio.ensure_future(self._runner.run(work, writes=True))
        self.writing.add(running)
        running.add_done_callback(self._written)
        # Its caller may be cancelled; the transaction is not.
        return await asyncio.shield(running)

    def _written(self, running: asyncio.Future[Any]) -> None:
        self.writing.discard(running)
        if not running.cancelled():
            # Mark the exception as retrieved: the caller may be gone.
            running.exception()

    def _read(self, work: Callable[[sa.Connection], T]) -> T:
        with self._reading.connect() as connection:
            return work(connection)

    def _write(self, until: float, work: Callable[[sa.Connection], T]) -> T:
        waits = {engines.UNTIL: until}
        with (
            self._engine.connect().execution_options(**waits) as connection,
            connection.begin() as transaction,
        ):
            result = work(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise _InDoubt(error) from error
                # SQLite leaves the transaction open, and SQLAlchemy takes it for over: it ends with its
                # connection, or all writers would find the database locked.
                connection.invalidate(error)
                raise
            return result

    def _migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        with self._engine.connect() as connection:
            if self._is_postgres:
                # Detached from the pool: the lock and the timeout end with the connection. An index of
                # millions of rows takes minutes, and so may the replica that is first.
                connection.detach()
                connection.execute(sa.text("SET statement_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('switchboard migrations'))"))
                connection.commit()
            upgrade(connection)


class _InDoubt(Exception):
    """The connection was lost in a commit: the transaction was kept, or it was not."""

    def __init__(self, error: DBAPIError) -> None:
        super().__init__(str(error))
        self.error = error


def _again(run: Callable[[Callable[[sa.Connection], T]], T], work: Callable[..., T]) -> T:
    """Run it again where that can help: the connection had died before, or two transactions collided.

    Not if the answer to a commit was lost: if it was kept, the same work would find its own rows and take
    them for somebody else's.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return run(work)
        except _InDoubt as doubt:
            raise doubt.error from None
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None) or ""
            if not (error.connection_invalidated or state in TRANSIENT) or attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def _threads(postgres: bool) -> Threads:
    if postgres:
        return Threads(engines.POSTGRES_CONNECTIONS // 2, engines.POSTGRES_CONNECTIONS // 2)
    return Threads(engines.SQLITE_READERS, 1, writers_give_way=True)


def _give_way() -> None:
    if sys.platform != "linux":
        return  # Elsewhere threads have no niceness of their own.
    thread = threading.get_native_id()
    try:
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + WRITER_NICENESS)
    except OSError as error:
        log.info("the thread for the database's writes has the niceness of the process: %s", error)
