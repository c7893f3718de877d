"""SQLite on the event loop: what is quick waits for nobody, and nothing there waits for the disk."""

import asyncio
import gc
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from dispatcher.store import checkpoints, engines, threads
from dispatcher.store.database import Database, OnTransaction, unobserved
from tests.patience import PATIENCE


def where(_: sa.Connection) -> str:
    return threading.current_thread().name


def write(connection: sa.Connection) -> str:
    connection.exec_driver_sql("INSERT INTO notes DEFAULT VALUES")
    return where(connection)


def count(connection: sa.Connection) -> int:
    return connection.exec_driver_sql("SELECT count(*) FROM notes").scalar_one()


@asynccontextmanager
async def opened(
    tmp_path: Path, on_transaction: OnTransaction = unobserved
) -> AsyncIterator[tuple[Database, Path]]:
    """Open a database with a table of notes; close it at the end."""
    path = tmp_path / "notes.sqlite"
    notes = Database(f"sqlite:///{path}", on_transaction=on_transaction)
    try:
        await notes.write(lambda c: c.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
        yield notes, path
    finally:
        await notes.close()


async def test_only_what_is_quick_runs_on_the_loop(tmp_path):
    async with opened(tmp_path) as (notes, _):
        main = threading.main_thread().name
        assert await notes.read(where, quick=True) == main
        assert await notes.write(where, quick=True) == main
        assert (await notes.read(where)).startswith("store-reader")
        assert (await notes.write(where)).startswith("store-writer")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no niceness of their own")
async def test_the_thread_that_writes_gives_way_to_the_loop(tmp_path):
    def niceness(_: sa.Connection) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async with opened(tmp_path) as (notes, _):
        ours = await notes.write(niceness, quick=True)
        assert await notes.read(niceness) == ours
        assert await notes.write(niceness) == min(ours + threads.WRITER_NICENESS, 19)


async def test_a_system_that_keeps_priorities_to_itself_costs_no_write(tmp_path, monkeypatch):
    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)

    async with opened(tmp_path) as (notes, _):
        assert (await notes.write(where)).startswith("store-writer")


async def test_what_finds_the_thread_writing_waits_for_it_and_runs_on_the_loop(tmp_path):
    async with opened(tmp_path) as (notes, _):
        begun, may_end = threading.Event(), threading.Event()

        def hold(connection: sa.Connection) -> None:
            write(connection)
            begun.set()
            assert may_end.wait(PATIENCE)

        holding = asyncio.create_task(notes.write(hold))
        await asyncio.to_thread(begun.wait, 10)
        waiting = [asyncio.create_task(notes.write(write, quick=True)) for _ in range(3)]
        # The loop goes on, and who reads is not held up.
        assert await notes.read(count, quick=True) == 0
        waiting[0].cancel()
        assert not any(task.done() for task in waiting)
        may_end.set()
        await holding
        assert [await task for task in waiting[1:]] == [threading.main_thread().name] * 2
        assert await notes.read(count, quick=True) == 3


async def test_what_finds_the_database_locked_by_others_waits_in_a_thread(tmp_path):
    async with opened(tmp_path) as (notes, path):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(notes.write(write, quick=True))
        # The loop goes on, and who reads is not held up.
        assert await notes.read(count, quick=True) == 0
        assert not waiting.done()
        other.execute("COMMIT")
        other.close()
        assert (await waiting).startswith("store-writer")
        assert await notes.read(count, quick=True) == 1


async def test_a_lock_that_stays_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 0.01)

    async with opened(tmp_path) as (notes, path):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="locked"):
            await notes.write(write, quick=True)
        other.close()


@pytest.mark.parametrize("quick", [True, False])
async def test_of_a_lock_that_stays_all_hear_in_the_time_of_one(tmp_path, monkeypatch, quick):
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 0.5)
    waited: list[float] = []

    async with opened(
        tmp_path, on_transaction=lambda _access, _answered, seconds: waited.append(seconds)
    ) as (notes, path):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waited.clear()
        heard = await asyncio.gather(
            *(notes.write(write, quick=quick) for _ in range(20)), return_exceptions=True
        )
        other.close()
        assert ["locked" in str(error) for error in heard] == [True] * 20
        assert min(waited) > 0.4
        assert max(waited) < 5, "one after the other they take 10 s"
        assert await notes.write(write), "the lock is free again"


async def test_a_transaction_that_raises_leaves_nothing(tmp_path):
    async with opened(tmp_path) as (notes, _):

        def fail(connection: sa.Connection):
            write(connection)
            raise ValueError

        with pytest.raises(ValueError):  # noqa: PT011 - ours
            await notes.write(fail, quick=True)
        assert await notes.read(count, quick=True) == 0


@pytest.mark.parametrize("quick", [True, False])
async def test_a_commit_that_is_refused_leaves_nothing_locked(tmp_path, quick):
    """SQLite leaves the transaction open then. A constraint that is checked by the commit refuses it."""
    authors = "CREATE TABLE authors (note INTEGER REFERENCES notes DEFERRABLE INITIALLY DEFERRED)"

    async with opened(tmp_path) as (notes, _):
        await notes.write(lambda connection: connection.exec_driver_sql(authors))
        with pytest.raises(IntegrityError):
            await notes.write(
                lambda connection: connection.exec_driver_sql("INSERT INTO authors VALUES (1)"), quick=quick
            )
        assert await notes.write(write, quick=True) == threading.main_thread().name, "nobody has the lock"
        assert await notes.write(write)
        assert await notes.read(count) == 2


async def test_many_in_a_row_let_others_have_their_turn(tmp_path):
    async with opened(tmp_path) as (notes, _):
        turns = []

        async def other():
            while True:
                turns.append(await notes.read(count, quick=True))

        task = asyncio.create_task(other())
        for _turn in range(10):
            await notes.write(write, quick=True)
        task.cancel()
        assert len(set(turns)) > 5


def salts_of(log: Path) -> bytes:
    """Two numbers in its header, which SQLite changes each time that the log begins anew."""
    with log.open("rb") as file:
        return file.read(24)[16:]


async def test_the_log_begins_anew_while_others_write(tmp_path, monkeypatch):
    """Nobody else copies it: left alone, it would have a page for every transaction."""
    monkeypatch.setattr(checkpoints, "WRITES", 50)

    async with opened(tmp_path) as (notes, path):
        log = path.with_name(f"{path.name}-wal")
        beginnings, written = set(), 0
        async with asyncio.timeout(PATIENCE):
            while len(beginnings) < 5:
                await notes.write(write, quick=True)
                written += 1
                beginnings.add(salts_of(log))
        assert await notes.read(count) == written


async def test_a_log_that_is_long_is_copied_and_cut_off(tmp_path, monkeypatch):
    """Large bodies make a long log of few transactions."""
    monkeypatch.setattr(checkpoints, "LOG_BYTES", 200_000)

    async with opened(tmp_path) as (notes, path):
        log = path.with_name(f"{path.name}-wal")
        longest = 0
        async with asyncio.timeout(PATIENCE):
            while log.stat().st_size >= longest:
                longest = log.stat().st_size
                await notes.write(write, quick=True)
        assert longest >= 200_000
        assert log.stat().st_size < 200_000


async def test_a_reader_of_an_older_state_keeps_no_writer_waiting(tmp_path, monkeypatch):
    """A backup may read for minutes. SQLite has all writers wait for it at the end of a copy of the log."""
    monkeypatch.setattr(checkpoints, "WRITES", 5)
    monkeypatch.setattr(threads, "CHECKPOINT_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(engines, "BUSY_TIMEOUT_SECONDS", 3600.0)

    async with opened(tmp_path) as (notes, path):
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM notes").fetchone() == (0,)
        try:
            async with asyncio.timeout(PATIENCE):
                for _ in range(20):
                    await notes.write(write, quick=True)
                    # In the thread that copies the log.
                    await notes.write(write)
        finally:
            reader.close()
        assert await notes.read(count) == 40


async def test_a_log_that_cannot_begin_anew_is_told_of_once_until_it_does(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(checkpoints, "WRITES", 5)

    async with opened(tmp_path) as (notes, path):

        async def told() -> list[str]:
            caplog.clear()
            async with asyncio.timeout(PATIENCE):
                while not caplog.messages:
                    await notes.write(write, quick=True)
                    await notes.write(write)
                for _ in range(20):
                    await notes.write(write, quick=True)
                    await notes.write(write)
            return list(caplog.messages)

        grows = (
            "the log of the database could not be copied into it, and grows until it can be: "
            "somebody else writes, or reads an older state"
        )
        for _ in range(2):
            reader = sqlite3.connect(path, isolation_level=None)
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM notes").fetchone() is not None
            assert await told() == [grows]
            reader.close()
            assert await told() == ["the log of the database is copied into it again"]


async def test_a_write_that_fails_after_its_caller_hung_up_is_nobodys_error(tmp_path):
    async with opened(tmp_path) as (notes, _):
        begun, may_fail, unheard = threading.Event(), threading.Event(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))

        def fail(_: sa.Connection) -> None:
            begun.set()
            assert may_fail.wait(PATIENCE)
            raise ValueError

        caller = asyncio.create_task(notes.write(fail))
        await asyncio.to_thread(begun.wait, 10)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        may_fail.set()
        # In the same thread, after it.
        await notes.write(write)
        gc.collect()
        assert unheard == []


def test_connection_waits_as_long_as_others_again_after_one_shorter_wait(tmp_path):
    engine = engines.of(sa.make_url(f"sqlite:///{tmp_path / 'notes.sqlite'}"))
    told: list[str] = []

    def patience(connection: sa.Connection) -> int:
        return connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()

    for _ in range(2):
        with engine.connect() as connection, connection.begin():
            assert patience(connection) == 1000 * engines.BUSY_TIMEOUT_SECONDS
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.set_trace_callback(told.append)
    hurried = engine.execution_options(**{engines.READ_ONLY: True})
    with hurried.connect() as connection:
        engines.wait_at_most(connection, 0.05)
        assert patience(connection) == 50
    # All three had the same connection, and SQLite is told only what is new.
    assert [sql for sql in told if "busy_timeout = " in sql] == ["PRAGMA busy_timeout = 50"]
    with engine.connect() as connection, connection.begin():
        assert patience(connection) == 1000 * engines.BUSY_TIMEOUT_SECONDS
    engine.dispose()
