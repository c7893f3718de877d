"""One database, and how transactions run in it: synchronously and whole.

A coroutine that waits for a transaction can be cancelled at any time; the transaction cannot: it has not
begun, or it ends. They run in threads. SQLite has one writer, so there is one thread for its writes.
PostgreSQL gets as many threads as it gets connections.

What is quick runs on the event loop itself where the database is SQLite: a few statements about rows that
are found by their keys take 0.1 to 0.3 ms there. In a thread they took several times that, because Python's
lock changes hands with every call of SQLite. Nothing that may take long happens on the loop: the thread does
all that waits for the disk (see `checkpoints`). What finds the database locked waits until the thread has
done, and comes back: done in the thread, it would find what comes next there as well, and so on for seconds.
Where another process has the lock, the thread waits for it. However many wait in turn, each hears within
`engines.BUSY_TIMEOUT_SECONDS` that it stays locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from dispatcher.store import engines
from dispatcher.store.ballast import Ballast
from dispatcher.store.checkpoints import Checkpoints
from dispatcher.store.outage import Outage

T = TypeVar("T")

log = logging.getLogger(__name__)

CHECKPOINT_WAIT_SECONDS = 0.05
"""How long the end of a copy of SQLite's log waits for readers of an older state, and all writers with it."""

WRITER_NICENESS = 5
"""How much nicer than all else the thread for SQLite's writes is. A start needs the event loop's thread and
no other; next to a copy of the log, on one core, it had half of the time. At 200 starts per second the
slowest hundredth took 16 to 23 ms, and takes 9 (`tests.bench.starts`; with 10 the same)."""

TRANSIENT = frozenset({"40001", "40P01"})
"""PostgreSQL's serialization_failure and deadlock_detected: the same transaction may work now."""

ATTEMPTS = 3

Access = Literal["read", "write"]

OnTransaction = Callable[[Access, bool, float], None]
"""Is told of each read and each transaction: whether the database answered, and after how many seconds, the
wait for a thread among them."""


def unobserved(_access: Access, _answered: bool, _seconds: float) -> None:
    """Nobody is told."""


class Runner(Protocol):
    """Where transactions run."""

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        """Run `work` once, whole, even if the caller is cancelled meanwhile."""
        ...

    async def close(self) -> None:
        """Let everything finish that was begun."""
        ...


class Threads:
    """Transactions in threads.

    Args:
        writers_give_way: Those that write get a core after the event loop's thread, where both want the same.
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


class Database:
    """The database behind a SQLAlchemy URL, SQLite or PostgreSQL."""

    def __init__(
        self, url: str | sa.URL, runner: Runner | None = None, on_transaction: OnTransaction = unobserved
    ) -> None:
        self._engine = engines.of(sa.make_url(url))
        autocommit = {"isolation_level": "AUTOCOMMIT"} if self.is_postgres else {}
        self._reading = self._engine.execution_options(**{engines.READ_ONLY: True}, **autocommit)
        self._on_loop: engines.OnLoop | None = None
        if runner is None and not self.is_postgres:
            self._on_loop = engines.OnLoop(sa.make_url(url))
        self._runner = runner or _threads(self.is_postgres)
        self._checkpoints = Checkpoints(self._checkpoint, self._log_bytes)
        self._on_transaction = on_transaction
        self._outage = Outage()
        self._writing: set[asyncio.Future[Any]] = set()
        """What the thread for SQLite's writes does, and has to do."""
        self._opened: tuple[int, int] | None = None
        database = self._engine.url.database
        self.file = Path(database) if database and not self.is_postgres else None
        # Who brings a runner has no threads: a simulation, whose clock would not wait for them.
        has_ballast = self.file is not None and runner is None
        self.ballast = Ballast(Path(f"{self.file}.ballast") if has_ballast else None)

    @property
    def is_postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    async def read(self, work: Callable[[sa.Connection], T], *, quick: bool = False) -> T:
        """Return what `work` reads. Every statement is a transaction of its own.

        Args:
            quick: It reads a few rows, by their keys.
        """
        return await self._timed(work, writes=False, quick=quick)

    async def write(self, work: Callable[[sa.Connection], T], *, quick: bool = False) -> T:
        """Run `work` in one transaction; nothing of it is kept if it raises.

        It may run again if it was certainly not kept. Who is told of a connection that was lost does not know
        whether it was.

        Args:
            quick: It writes a few rows, which it finds by their keys.
        """
        return await self._timed(work, writes=True, quick=quick)

    async def migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        """Make the database's directory if there is none, and run `upgrade` while nobody else does."""
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            await self._runner.run(lambda: self._again(self._migrate, upgrade), writes=True)
        except OperationalError as error:
            # A dispatcher that was killed has left its ballast.
            if not engines.is_full(error) or not await self.ballast.give_up():
                raise
            await self._runner.run(lambda: self._again(self._migrate, upgrade), writes=True)
        self._opened = self._identity()

    def lost_file(self) -> Path | None:
        """SQLite's file, if it is no longer the one that was opened: what is written goes nowhere."""
        if self._opened is None or self._identity() == self._opened:
            return None
        return self.file

    def _identity(self) -> tuple[int, int] | None:
        """SQLite's file as the system knows it; None if there is none."""
        if self.file is None:
            return None
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    async def close(self) -> None:
        await self._checkpoints.close()
        await self._runner.close()
        self._engine.dispose()
        if self._on_loop is not None:
            self._on_loop.close()

    async def _timed(self, work: Callable[[sa.Connection], T], *, writes: bool, quick: bool) -> T:
        began, answered = time.perf_counter(), True
        until = began + engines.BUSY_TIMEOUT_SECONDS
        try:
            try:
                result = await self._once(work, writes=writes, quick=quick, until=until)
            except OperationalError as error:
                if not writes or not engines.is_full(error):
                    raise
                await self._make_room()
                result = await self._once(work, writes=writes, quick=False, until=until)
            self._outage.answered(writes=writes)
            return result
        except SQLAlchemyError as error:
            # A constraint that refuses is an answer.
            answered = isinstance(error, IntegrityError)
            self._outage.failed(error, writes=writes)
            raise
        finally:
            self._on_transaction("write" if writes else "read", answered, time.perf_counter() - began)

    async def _once(
        self, work: Callable[[sa.Connection], T], *, writes: bool, quick: bool, until: float
    ) -> T:
        if quick and self._on_loop is not None:
            return await self._at_once(self._on_loop, work, writes=writes, until=until)
        return await self._in_thread(work, writes=writes, until=until)

    async def _make_room(self) -> None:
        """Give the ballast up, and have SQLite's log begin anew: its file has its room already."""
        if await self.ballast.give_up():
            log.error("the disk of the database is full: what was kept free there goes to ends of sessions")
        with contextlib.suppress(SQLAlchemyError):
            await self._checkpoint("RESTART")

    async def _at_once(
        self, here: engines.OnLoop, work: Callable[[sa.Connection], T], *, writes: bool, until: float
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
            if not self._writing:
                return await self._in_thread(work, writes=writes, until=until)
            await asyncio.wait(self._writing, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if writes:
            self._checkpoints.written()
        # Who does one after the other lets others have their turn.
        await asyncio.sleep(0)
        return result

    async def _in_thread(self, work: Callable[[sa.Connection], T], *, writes: bool, until: float) -> T:
        run = partial(self._write, until) if writes else self._read
        return await self._run(lambda: self._again(run, work), writes=writes)

    async def _run(self, work: Callable[[], T], *, writes: bool) -> T:
        if not writes or self._on_loop is None:
            return await self._runner.run(work, writes=writes)
        running = asyncio.ensure_future(self._runner.run(work, writes=True))
        self._writing.add(running)
        running.add_done_callback(self._written)
        # Who waits for it may be cancelled; it is not.
        return await asyncio.shield(running)

    def _written(self, running: asyncio.Future[Any]) -> None:
        self._writing.discard(running)
        if not running.cancelled():
            # What it raises is for who waits for it: nobody misses it where nobody does.
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

    def _log_bytes(self) -> int:
        """Size of SQLite's log; 0 if there is none."""
        try:
            return os.stat(f"{self.file}-wal").st_size
        except FileNotFoundError:
            return 0

    async def _checkpoint(self, mode: str) -> bool:
        def run() -> bool:
            with self._reading.connect() as connection:
                engines.wait_at_most(connection, CHECKPOINT_WAIT_SECONDS)
                # SQLite's answer: whether it was kept from it, and two counts of pages.
                return not connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()[0]

        return await self._run(run, writes=True)

    def _migrate(self, upgrade: Callable[[sa.Connection], None]) -> None:
        with self._engine.connect() as connection:
            if self.is_postgres:
                # Not the pool's any more: the lock and the patience are the connection's, and end with it. An
                # index of millions of rows takes minutes, and so may the replica that is first.
                connection.detach()
                connection.execute(sa.text("SET statement_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('switchboard migrations'))"))
                connection.commit()
            upgrade(connection)

    def _again(self, run: Callable[[Callable[[sa.Connection], T]], T], work: Callable[..., T]) -> T:
        """Once more where that can help: the connection had died before, or two transactions collided.

        Not if the answer to a commit was lost: kept already, the same work would find its own rows and take
        them for somebody else's.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return run(work)
            except _InDoubt as doubt:
                raise doubt.error from None
            except DBAPIError as error:
                transient = error.connection_invalidated or _sqlstate(error) in TRANSIENT
                if not transient or attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")


class _InDoubt(Exception):
    """The connection was lost in a commit: the transaction was kept, or it was not."""

    def __init__(self, error: DBAPIError) -> None:
        super().__init__(str(error))
        self.error = error


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


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
        log.info("the thread for the database's writes is as urgent as all else: %s", error)
