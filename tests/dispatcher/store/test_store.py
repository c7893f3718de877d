"""The store, on SQLite and on PostgreSQL."""

import asyncio
import contextlib
import sqlite3
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError

from bot.protocol import Phase
from dispatcher.domain import transitions
from dispatcher.domain.admission import Limits, Load
from dispatcher.domain.model import End, Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import Cause
from dispatcher.store.queries import Page
from dispatcher.store.store import Store
from dispatcher.store.tables import machines, messages
from tests.dispatcher.rows import rows
from tests.dispatcher.store.stores import opened

CAUSE = Cause("tester", 1001.0)


def pair(agent: str = "echo") -> tuple[Session, Machine]:
    return rows(agent=agent, body={"deep": [1, None, "ä"]})


def limits(agent: int = 1, *, queue: int = 0, deployment: int | None = None) -> Limits:
    names = ("echo", "other")
    return Limits(dict.fromkeys(names, agent), dict.fromkeys(names, queue), deployment)


async def add(store: Store, session: Session, machine: Machine, allowed: Limits) -> Any:
    """The session as it was written; None if it was refused."""
    added = await store.writes.add(session, machine, machine, allowed, "tester")
    return added and added[0]


async def test_what_was_written_is_read_back_and_survives_a_reopening(url):
    session, machine = pair()
    async with opened(url) as store:
        assert await add(store, session, machine, limits())
    admitted = transitions.admitted(session, session.created_at)
    async with opened(url) as store:
        assert await store.session(session.id) == admitted
        assert await store.session_of_machine(machine.id) == admitted
        assert await store.machine(machine.id) == machine


async def test_what_does_not_exist_is_none(url):
    async with opened(url) as store:
        assert await store.writes.update_session("nope", lambda session: session, CAUSE) is None
        assert await store.session("nope") is None
        assert await store.machine("nope") is None


def gone(machine: Machine) -> Machine:
    return transitions.machine_gone(machine, None, 1001.0)


def over(session: Session) -> Session:
    return transitions.over(session, End("completed", "Done."), 1001.0)


def waiting(agent: str = "echo", at: float = 1000.0, patience: float = 60.0) -> tuple[Session, Machine]:
    session, machine = pair(agent)
    return replace(session, queue_seconds=patience, created_at=at), machine


async def test_the_limit_counts_admitted_sessions_of_one_agent(url):
    async with opened(url) as store:
        pairs = [pair() for _ in range(20)]
        added = await asyncio.gather(*(add(store, *one, limits(5)) for one in pairs))
        assert sum(one is not None for one in added) == 5
        assert await add(store, *pair("other"), limits(5))
        first = next(one for one in added if one)
        await store.writes.update_session(first.id, over, CAUSE)
        assert len(await store.live_sessions()) == 5
        assert await store.loads() == {"echo": Load(4, 0), "other": Load(1, 0)}
        assert await add(store, *pair(), limits(5))


async def test_the_deployments_limit_holds_over_all_agents_and_all_callers(url):
    async with opened(url) as store:
        agents = ["echo", "other"] * 10
        added = await asyncio.gather(*(add(store, *pair(agent), limits(8, deployment=7)) for agent in agents))
        assert sum(one is not None for one in added) == 7
        assert sum(load.live for load in (await store.loads()).values()) == 7


async def test_who_may_wait_is_admitted_in_order_and_nobody_overtakes(url):
    async with opened(url) as store:
        allowed = limits(1, queue=3)
        first = await add(store, *pair(), allowed)
        queued = [waiting(at=1000.0 + i) for i in range(4)]
        added = [await add(store, *one, allowed) for one in queued]
        assert [one and one.state for one in added] == ["queued", "queued", "queued", None]
        assert await store.place(added[1]) == (2, [])
        assert await store.writes.admit_next(allowed, lambda _, machine, __: machine, 1010.0) is None
        await store.writes.update_session(first.id, over, CAUSE)
        assert await add(store, *pair(), allowed) is None, "the slot belongs to whoever waits"
        admitted = await asyncio.gather(
            *(store.writes.admit_next(allowed, lambda _, machine, __: machine, 1010.0) for _ in range(5))
        )
        assert [one[0].id for one in admitted if one] == [added[0].id]
        assert await store.place(added[1]) == (1, [1.0])
        assert (await store.loads())["echo"] == Load(1, 2)


async def test_an_agents_own_limit_does_not_hold_up_other_agents(url):
    async with opened(url) as store:
        allowed = limits(1, queue=5, deployment=2)
        await add(store, *pair("echo"), allowed)
        await add(store, *waiting("echo"), allowed)
        # One line of the deployment is free, and who waits may not have it.
        other = await add(store, *pair("other"), allowed)
        assert other.state == "starting"
        waits = await add(store, *waiting("other", at=1002.0), allowed)
        await store.writes.update_session(other.id, over, CAUSE)
        admitted = await store.writes.admit_next(allowed, lambda _, machine, __: machine, 1010.0)
        assert admitted is not None
        assert admitted[0].id == waits.id


async def test_who_has_waited_long_enough_is_not_admitted(url):
    async with opened(url) as store:
        allowed = limits(1, queue=5)
        first = await add(store, *pair(), allowed)
        await add(store, *waiting(patience=5.0), allowed)
        patient = await add(store, *waiting(at=1001.0), allowed)
        await store.writes.update_session(first.id, over, CAUSE)
        admitted = await store.writes.admit_next(allowed, lambda _, machine, __: machine, 1006.0)
        assert admitted is not None
        assert admitted[0].id == patient.id


async def test_a_cancelled_caller_leaves_a_whole_transaction(url):
    pairs = [pair() for _ in range(30)]
    # Its end lets everything finish that was begun.
    async with opened(url) as store:
        tasks = [asyncio.ensure_future(add(store, *one, limits(100))) for one in pairs]
        for turn, task in enumerate(tasks):
            await asyncio.sleep(0.001 * (turn % 3))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async with opened(url) as store:
        for session, machine in pairs:
            kept = await store.session(session.id)
            assert (kept is None) == (await store.machine(machine.id) is None)
            assert (kept is None) == (not await store.events(session.id))
        assert (await store.loads()).get("echo", Load()).live == len(await store.live_sessions())


@contextlib.contextmanager
def the_answer_to_a_commit_is_lost():
    """The next transaction on PostgreSQL is kept, and its connection gone before the client knows."""
    commit = psycopg.Connection.commit

    def lost(connection: psycopg.Connection) -> None:
        patched.stop()
        commit(connection)
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    patched = mock.patch.object(psycopg.Connection, "commit", lost)
    patched.start()
    try:
        yield
    finally:
        assert psycopg.Connection.commit is commit, "nothing was committed"


async def test_a_transaction_whose_commit_is_in_doubt_is_not_run_again(postgres_url):
    session, machine = pair()
    (second, seconds), (third, thirds) = (
        (replace(waiting, queue_seconds=600.0, created_at=1000.0 + number), its)
        for number, (waiting, its) in enumerate([pair(), pair()])
    )

    async with opened(postgres_url) as store:
        # Run again, it would find its own session in the way, and refuse it.
        with the_answer_to_a_commit_is_lost(), pytest.raises(OperationalError):
            await add(store, session, machine, limits())
        for waiting, its in ((second, seconds), (third, thirds)):
            await add(store, waiting, its, limits(queue=2))
        await store.writes.update_session(session.id, over, CAUSE)
        # Run again, it would admit the next one, and nobody would know of the first.
        with the_answer_to_a_commit_is_lost(), pytest.raises(OperationalError):
            await store.writes.admit_next(limits(2, queue=2), lambda _, machine, __: machine, 1002.0)
        live = {live.id: live.state for live in await store.live_sessions()}
        assert live == {second.id: SessionState.starting, third.id: SessionState.queued}


async def test_a_connection_that_died_while_nobody_used_it_is_no_failure(postgres_url):
    session, machine = pair()

    async with opened(postgres_url) as store:
        await store.ping()
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as other:
            end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            other.execute(f"{end} WHERE datname = current_database() AND pid <> pg_backend_pid()")
        assert await add(store, session, machine, limits())
        assert len(await store.live_sessions()) == 1


async def test_concurrent_changes_are_all_kept(url):
    session, machine = pair()

    async with opened(url) as store:
        await add(store, session, machine, limits())
        turns = [float(number) for number in range(50)]
        await asyncio.gather(
            *(
                store.writes.update_session(
                    session.id, lambda s, ms=ms: transitions.turn(s, ms, 1001.0), CAUSE
                )
                for ms in turns
            )
        )
        found = await store.session(session.id)
        assert found is not None
        assert sorted(found.turns_ms) == turns


async def test_events_are_numbered_in_the_order_of_the_changes_and_kept_with_them(url):
    session, machine = pair()
    other, others_machine = pair()

    async with opened(url) as store:
        await add(store, session, machine, limits(2))
        await add(store, other, others_machine, limits(2))

        def reports(phase: Phase):
            return lambda current: transitions.reported(current, phase, None, 1001.0)

        phases: list[Phase] = ["loading", "waiting", "starting", "active", "ready"] * 5
        await asyncio.gather(
            *(store.writes.update_session(session.id, reports(phase), CAUSE) for phase in phases),
            store.writes.update_machine(
                machine.id, lambda one: transitions.machine_gone(one, None, 1001.0), CAUSE
            ),
        )
        events = await store.events(session.id)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert len(events) > 10
        assert sum(event.kind == "machine-gone" for event in events) == 1
        assert await store.events(session.id, after=len(events) - 1) == events[-1:]
        assert [event.kind for event in await store.events(other.id)] == ["queued", "starting"]


async def test_a_change_whose_event_cannot_be_written_is_not_written_either(url):
    session, machine = pair()

    async with opened(url) as store:
        await add(store, session, machine, limits())
        # The column refuses what has no time.
        with pytest.raises(IntegrityError):
            await store.writes.update_session(session.id, over, replace(CAUSE, at=None))
        assert await store.session(session.id) == transitions.admitted(session, session.created_at)


async def test_a_change_that_raises_changes_nothing(url):
    session, machine = pair()

    async with opened(url) as store:
        await add(store, session, machine, limits())
        with pytest.raises(ZeroDivisionError):
            await store.writes.update_session(
                session.id, lambda current: replace(current, created_at=1 / 0), CAUSE
            )
        assert await store.session(session.id) == transitions.admitted(session, session.created_at)
        assert await add(store, *pair(), limits(2)), "the lock is free again"


async def test_a_session_that_moves_on_while_its_machine_is_read_stays_its_session(url):
    session, machine = pair()
    machine = replace(machine, placement="here")

    async with opened(url) as store:
        await add(store, session, machine, limits())
        other = sa.create_engine(url)
        moved: list[str] = []

        def moves_on(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("SELECT") and not moved:
                moved.append(statement)
                with other.begin() as connection:
                    connection.execute(sa.update(machines).values(state=MachineState.started))

        event.listen(sa.Engine, "after_cursor_execute", moves_on)
        try:
            (found,) = await store.due_machines(1000.0, ())
        finally:
            event.remove(sa.Engine, "after_cursor_execute", moves_on)
        assert moved
        assert found[1] is not None, "the reaper ends machines that have no session"
        assert (found[0].id, found[1].id) == (machine.id, session.id)
        assert await store.due_machines(1000.0, ()) == []
        assert await store.due_machines(1000.0, [machine.id]) == [
            (replace(machine, state=MachineState.started), found[1])
        ]
        assert await store.session(session.id) == replace(found[1], body=session.body)
        other.dispose()


async def test_machines_that_are_gone_are_not_live(url):
    session, machine = pair()

    async with opened(url) as store:
        await add(store, session, machine, limits())
        assert await store.live_machines() == Page([machine.id], [], [], None)
        await store.writes.update_session(session.id, lambda one: replace(one, started_at=1000.5), CAUSE)
        assert await store.live_machines() == Page([machine.id], [machine.id], [], None)
        assert not (await store.live_machines(started_before=1000.5)).started
        await store.writes.update_machine(
            machine.id, lambda one: transitions.machine_gone(one, None, 1001.0), CAUSE
        )
        assert await store.live_machines() == Page((), (), (), None)


async def test_sqlite_is_in_write_ahead_mode(tmp_path):
    async with opened(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        await store.ping()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_messages_are_deleted_after_a_minute_in_batches(url):
    async with opened(url) as store:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            for number in range(10):
                values = {"id": str(number), "payload": "x" * 10_000, "created_at": 1000.0 + 10 * number}
                connection.execute(sa.insert(messages).values(**values))
        assert await store.delete_old_messages(1059.0, 3) == 0
        assert await store.delete_old_messages(1100.0, 3) == 3
        assert await store.delete_old_messages(1100.0, 3) == 2
        with engine.begin() as connection:
            left = connection.scalars(sa.select(messages.c.id).order_by(messages.c.id)).all()
        engine.dispose()
        assert left == ["5", "6", "7", "8", "9"]


async def test_what_is_live_is_counted_and_what_is_over_is_not(url):
    async with opened(url) as store:
        for number, agent in enumerate(["echo", "echo", "other", "other"]):
            session, machine = pair(agent)
            if number == 1:
                machine = replace(machine, placement="near")
            await add(store, session, machine, limits(2))
            if number == 3:
                end = partial(transitions.over, end=End("stopped", "Enough."), now=1001.0)
                await store.writes.update_session(session.id, end, CAUSE)
                gone = partial(transitions.machine_gone, status=None, now=1001.0)
                await store.writes.update_machine(machine.id, gone, CAUSE)
        counted = await store.counts()
    assert counted.sessions == {("echo", "starting"): 2, ("other", "starting"): 1}
    assert counted.machines == {("", "requested"): 2, ("near", "requested"): 1}
