"""The store, on SQLite."""

import asyncio
import sqlite3
import uuid
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from bot.protocol import Phase
from dispatcher.machines.provider import MachineState
from dispatcher.sessions import lifecycle
from dispatcher.sessions.lifecycle import End, Machine, Session, SessionState
from dispatcher.sessions.timeline import Cause
from dispatcher.store.migrate import upgrade
from dispatcher.store.store import Store
from dispatcher.store.tables import metadata

CAUSE = Cause("tester", 1001.0)


def pair(agent: str = "echo") -> tuple[Session, Machine]:
    session_id = str(uuid.uuid4())
    machine = Machine(f"m-{session_id}", session_id, "process", MachineState.requested, 1000.0)
    body = {"deep": [1, None, "ä"]}
    return Session(
        session_id, agent, "webrtc", body, [], machine.id, SessionState.queued, 30.0, 60.0, 7200.0, 1000.0
    ), machine


def with_store(tmp_path, use):
    async def run():
        store = Store(f"sqlite+aiosqlite:///{tmp_path / 'new' / 'store.sqlite'}")
        await store.open()
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


def test_the_migrations_make_exactly_the_tables(tmp_path):
    with_store(tmp_path, lambda store: store.ping())
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'new' / 'store.sqlite'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_database_of_the_first_release_is_migrated_with_what_is_in_it(tmp_path):
    database = tmp_path / "new" / "store.sqlite"
    database.parent.mkdir()
    engine = sa.create_engine(f"sqlite:///{database}")
    with engine.connect() as connection:
        upgrade(connection, "0001")
        connection.execute(
            sa.text(
                "INSERT INTO machines (id, session_id, provider, state, created_at, versions)"
                " VALUES ('m-1', 's-1', 'process', 'requested', 1000, '{}')"
            )
        )
        connection.commit()
    engine.dispose()
    machine = with_store(tmp_path, lambda store: store.machine("m-1"))
    assert machine == Machine(
        "m-1", "s-1", "process", MachineState.requested, 1000.0, placement="process", create_by=None
    )


def test_what_was_written_is_read_back_and_survives_a_reopening(tmp_path):
    session, machine = pair()

    async def write(store):
        assert await store.add(session, machine, 1, "tester")

    async def read(store):
        return (
            await store.session(session.id),
            await store.session_of_machine(machine.id),
            await store.machine(machine.id),
        )

    with_store(tmp_path, write)
    assert with_store(tmp_path, read) == (session, session, machine)


def test_what_does_not_exist_is_none(tmp_path):
    async def read(store):
        nothing = await store.update_session("nope", lambda session: session, CAUSE)
        return await store.session("nope"), await store.machine("nope"), nothing

    assert with_store(tmp_path, read) == (None, None, None)


def test_the_limit_counts_live_sessions_of_one_agent(tmp_path):
    async def use(store):
        pairs = [pair() for _ in range(20)]
        added = await asyncio.gather(*(store.add(*one, 5, "tester") for one in pairs))
        assert sum(added) == 5
        assert await store.add(*pair("other"), 5, "tester")
        first = next(one for one, was_added in zip(pairs, added, strict=True) if was_added)[0]
        await store.update_session(
            first.id, lambda session: lifecycle.over(session, End("completed", "Done."), 1001.0), CAUSE
        )
        assert len(await store.live_sessions()) == 5
        assert await store.add(*pair(), 5, "tester")

    with_store(tmp_path, use)


def test_concurrent_changes_are_all_kept(tmp_path):
    session, machine = pair()

    async def use(store):
        await store.add(session, machine, 1, "tester")
        turns = [float(number) for number in range(50)]
        await asyncio.gather(
            *(store.update_session(session.id, lambda s, ms=ms: lifecycle.turn(s, ms), CAUSE) for ms in turns)
        )
        found = await store.session(session.id)
        assert sorted(found.turns_ms) == turns

    with_store(tmp_path, use)


def test_events_are_numbered_in_the_order_of_the_changes_and_kept_with_them(tmp_path):
    session, machine = pair()
    other, others_machine = pair()

    async def use(store):
        await store.add(session, machine, 2, "tester")
        await store.add(other, others_machine, 2, "tester")

        def reports(phase: Phase):
            return lambda current: lifecycle.reported(current, phase, None, 1001.0)

        phases: list[Phase] = ["loading", "waiting", "starting", "active", "ready"] * 5
        await asyncio.gather(
            *(store.update_session(session.id, reports(phase), CAUSE) for phase in phases),
            store.update_machine(machine.id, lambda one: lifecycle.machine_gone(one, None, 1001.0), CAUSE),
        )
        events = await store.events(session.id)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert len(events) > 10
        assert sum(event.kind == "machine-gone" for event in events) == 1
        assert await store.events(session.id, after=len(events) - 1) == events[-1:]
        assert [event.kind for event in await store.events(other.id)] == ["queued"]

    with_store(tmp_path, use)


def test_a_change_whose_event_cannot_be_written_is_not_written_either(tmp_path):
    session, machine = pair()

    async def use(store):
        await store.add(session, machine, 1, "tester")
        # No time: SQLite keeps NaN as NULL, which the column refuses.
        launch = partial(lifecycle.launched, now=1001.0)
        with pytest.raises(IntegrityError):
            await store.update_session(session.id, launch, Cause("tester", float("nan")))
        assert await store.session(session.id) == session

    with_store(tmp_path, use)


def test_a_change_that_raises_changes_nothing(tmp_path):
    session, machine = pair()

    async def use(store):
        await store.add(session, machine, 1, "tester")
        with pytest.raises(ZeroDivisionError):
            await store.update_session(session.id, lambda current: replace(current, created_at=1 / 0), CAUSE)
        assert await store.session(session.id) == session
        assert await store.add(*pair(), 2, "tester"), "the lock is free again"

    with_store(tmp_path, use)


def test_machines_that_are_gone_are_not_live(tmp_path):
    session, machine = pair()

    async def use(store):
        await store.add(session, machine, 1, "tester")
        assert await store.live_machines() == [machine]
        await store.update_machine(machine.id, lambda one: lifecycle.machine_gone(one, None, 1001.0), CAUSE)
        assert await store.live_machines() == []

    with_store(tmp_path, use)


def test_the_database_is_in_write_ahead_mode(tmp_path):
    with_store(tmp_path, lambda store: store.ping())
    connection = sqlite3.connect(tmp_path / "new" / "store.sqlite")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
