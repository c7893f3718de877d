"""Lines on PostgreSQL: several replicas take them, hand them on and are hung up on, all at once."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import sqlalchemy as sa

from dispatcher.domain import transitions
from dispatcher.domain.admission import Limits
from dispatcher.domain.model import End, Machine, Session, SessionState
from dispatcher.domain.timeline import Cause
from dispatcher.store.store import Store
from tests.dispatcher.rows import rows

REPLICAS = 3
CALLERS = 20
STARTS = 8
"""Of each caller, one after the other."""

MOST, MOST_WAITING = 8, 5
CAUSE = Cause("tester", 1005.0)
END = End("stopped", "Enough.")


def wanted(machine: Machine) -> Machine:
    return transitions.wanted(machine, "process", "process", 2000.0, "a-replica")


def gone(machine: Machine) -> Machine:
    return transitions.machine_gone(machine, None, 1006.0)


class Callers:
    """Those who start sessions at any replica, and end them.

    Attributes:
        most: How many lines were known to be taken at once.
        handed_on: How many lines were given to who waited.
        hung_up: How many starts were given up before they were answered.
    """

    def __init__(self, stores: list[Store], limits: Limits) -> None:
        self.most = 0
        self.handed_on = 0
        self.hung_up = 0
        self._stores = stores
        self._limits = limits
        self._held: set[str] = set()
        """Sessions that were told to have a slot, and nobody began to end."""

    async def start(self, store: Store, session_id: str, queue_seconds: float = 0.0) -> Session | None:
        session, machine = rows(session_id, queue_seconds=queue_seconds)
        added = await store.writes.add(session, machine, wanted(machine), self._limits, "tester")
        return self._known(added)

    async def end(self, session_id: str) -> None:
        self._held.discard(session_id)
        store, other = random.choice(self._stores), random.choice(self._stores)
        await store.writes.update_session(session_id, lambda one: transitions.over(one, END, 1005.0), CAUSE)
        await other.writes.update_machine(f"m-{session_id}", gone, CAUSE)

    async def hand_on(self, store: Store) -> bool:
        """Give a slot to whoever has waited longest, and end that session; true if somebody got one."""
        admitted = await store.writes.admit_next(self._limits, lambda _, machine, __: wanted(machine), 1002.0)
        session = self._known(admitted)
        if session is None:
            return False
        self.handed_on += 1
        await self.end(session.id)
        return True

    async def fill(self) -> Counter[str]:
        """All start at once, and nobody ends before all were answered; gives the answers."""
        # An agent's first start makes the row that counts its lines; from then on one statement is enough.
        await self.start(self._stores[0], "first")
        await self.end("first")
        stores = itertools.cycle(self._stores)
        started = await asyncio.gather(
            *(self.start(next(stores), f"first-{number}", 60.0) for number in range(CALLERS))
        )
        for session in started:
            if session is not None and session.state is SessionState.starting:
                await self.end(session.id)
        return Counter("refused" if session is None else session.state for session in started)

    async def call(self, number: int) -> None:
        """Start and end sessions; some hang up, and what they started is ended if it is there."""
        luck, doubtful = random.Random(number), list[str]()
        for turn in range(STARTS):
            for session_id in doubtful:
                await self.end(session_id)
            session_id, store = f"{number}-{turn}", luck.choice(self._stores)
            starting = asyncio.create_task(self.start(store, session_id, luck.choice([0.0, 0.0, 60.0])))
            if luck.random() < 0.2:
                await asyncio.sleep(0)
                starting.cancel()
                with suppress(asyncio.CancelledError):
                    await starting
                self.hung_up += 1
                doubtful.append(session_id)
                continue
            session = await starting
            if session is not None and session.state is SessionState.starting:
                await store.live_sessions()
                await self.end(session_id)
            if luck.random() < 0.3:
                await self.hand_on(store)

    def _known(self, written: tuple[Session, Machine] | None) -> Session | None:
        if written is None:
            return None
        if written[0].state is SessionState.starting:
            self._held.add(written[0].id)
            self.most = max(self.most, len(self._held))
        return written[0]


@asynccontextmanager
async def replicas(url: str, number: int) -> AsyncIterator[list[Store]]:
    """So many, which finish what they began."""
    stores = [Store(url) for _ in range(number)]
    try:
        await asyncio.gather(*(store.open() for store in stores))
        yield stores
    finally:
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize("deployment", [None, MOST - 1])
async def test_replicas_never_exceed_a_limit_together_and_count_every_session(postgres_url, deployment):
    limits = Limits({"echo": MOST}, {"echo": MOST_WAITING}, deployment)
    most = deployment or MOST

    async with replicas(postgres_url, REPLICAS) as stores:
        callers = Callers(stores, limits)
        assert await callers.fill() == {
            "starting": most,
            "queued": MOST_WAITING,
            "refused": CALLERS - most - MOST_WAITING,
        }
        await asyncio.gather(*(callers.call(number) for number in range(CALLERS)))
        assert callers.most == most
    async with replicas(postgres_url, 1) as stores:
        (store,) = stores
        check(postgres_url)
        last = Callers(stores, limits)
        for session in await store.live_sessions():
            if session.state is SessionState.starting:
                await last.end(session.id)
        while await last.hand_on(store):
            pass
        assert await store.live_sessions() == []
        assert callers.handed_on + last.handed_on >= MOST_WAITING
        assert callers.hung_up > 0
    check(postgres_url)


async def test_session_keeps_its_line_until_its_machine_is_gone_or_its_grace_is_over(url):
    limits = Limits({"echo": 1}, {"echo": 0}, None)

    store = Store(url, ending_seconds=10.0)
    await store.open()
    try:
        callers = Callers([store], limits)

        async def starts(session_id: str) -> bool:
            return await callers.start(store, session_id) is not None

        async def over(session_id: str, machine: Callable[[Machine], Machine] | None = None) -> None:
            close = lambda one: transitions.over(one, END, 1005.0)  # noqa: E731 - it has one use
            await store.writes.update_session(session_id, close, CAUSE, machine)

        assert await starts("a")
        await over("a")
        assert not await starts("b"), "its machine is ending"
        await store.writes.update_machine("m-a", gone, CAUSE)
        await store.writes.update_machine("m-a", gone, CAUSE)
        assert await starts("c"), "it is gone"
        assert not await starts("d"), "it gave back one line"
        await over("c")
        assert await store.writes.free_slots(1014.9) == 0
        assert not await starts("e")
        assert await store.writes.free_slots(1015.0) == 1
        assert await store.writes.free_slots(1015.0) == 0
        assert await starts("f"), "it had its grace"
        assert not await starts("g")
        await store.writes.update_machine("m-c", gone, CAUSE)
        assert not await starts("h"), "its line was given back before"
        await over("f", gone)
        assert await starts("i"), "both became known at once"
    finally:
        await store.close()


def check(url: str) -> None:
    """Every session is counted where it belongs, and has its machine and a whole timeline."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:

        def numbers(query: str) -> list[tuple[int, ...]]:
            return [tuple(row) for row in connection.execute(sa.text(query))]

        counted = numbers("SELECT live, queued FROM loads WHERE agent = 'echo'")
        states = "count(*) FILTER (WHERE state = 'starting'), count(*) FILTER (WHERE state = 'queued')"
        assert counted == numbers(f"SELECT {states} FROM sessions")
        pairs = "sessions FULL JOIN machines ON machines.id = sessions.machine_id"
        alone = "sessions.id IS NULL OR machines.id IS NULL"
        assert numbers(f"SELECT count(*) FROM {pairs} WHERE {alone}") == [(0,)]
        numbered = "SELECT session_id FROM events GROUP BY 1 HAVING count(*) <> max(number)"
        assert numbers(f"SELECT count(*) FROM ({numbered}) AS gaps") == [(0,)]
    engine.dispose()
