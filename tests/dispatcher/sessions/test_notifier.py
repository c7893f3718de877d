import asyncio
from dataclasses import replace

import pytest

from dispatcher.bus import Hub, LocalBus
from dispatcher.domain import transitions
from dispatcher.domain.model import Session
from dispatcher.sessions.notifier import POLL_SECONDS, Notifier
from dispatcher.tasks import end_tasks
from tests.dispatcher.harness import ManualClock
from tests.dispatcher.rows import rows

BEFORE = transitions.admitted(rows("s-1")[0], 1000.5)
AFTER = replace(BEFORE, started_at=1001.0)


def started(session: Session) -> bool:
    return session.started_at is not None


class Rows:
    """A store of one row, which counts how often it is read."""

    def __init__(self, session: Session | None = BEFORE) -> None:
        self.session = session
        self.read = 0

    async def __call__(self, session_id: str) -> Session | None:
        self.read += 1
        return self.session


async def moment() -> None:
    """Let everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def waiting(told: Notifier, rows: Rows) -> asyncio.Task[Session | None]:
    return asyncio.create_task(told.until_session("s-1", rows, started))


async def test_row_is_read_once_when_this_replica_writes_it():
    told, rows = Notifier(LocalBus()), Rows()
    wait = waiting(told, rows)
    await moment()
    told.notify("s-1", BEFORE)
    await moment()
    assert not wait.done()
    told.notify("s-1", AFTER)
    assert await wait == AFTER
    assert rows.read == 1


async def test_writes_that_are_told_out_of_their_order_are_heard_all_the_same():
    told, rows = Notifier(LocalBus()), Rows()
    wait = waiting(told, rows)
    await moment()
    told.notify("s-1", AFTER)
    told.notify("s-1", BEFORE)
    assert await wait == AFTER


@pytest.mark.parametrize("by", ["another replica", "nobody knows"])
async def test_row_is_read_again_when_its_new_content_is_not_known(by):
    hub = Hub()
    bus, other = LocalBus("a", hub), LocalBus("b", hub)
    told, elsewhere = Notifier(bus), Notifier(other)
    await bus.open()
    await other.open()
    rows = Rows()
    wait = waiting(told, rows)
    await moment()
    rows.session = AFTER
    if by == "another replica":
        elsewhere.notify("s-1", AFTER)
    else:
        told.resumed()
    assert await wait == AFTER
    assert rows.read == 2


class Down(LocalBus):
    """A bus of several replicas over which nothing comes."""

    is_up = False

    @property
    def stands(self) -> bool:
        return self.is_up

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        return False


async def test_a_change_that_no_message_tells_of_is_read_while_the_bus_is_down():
    clock, bus = ManualClock(), Down("a", Hub())
    told, rows = Notifier(bus), Rows()
    polling = asyncio.create_task(told.poll(clock))
    wait = waiting(told, rows)
    await moment()
    rows.session = AFTER
    clock.advance(POLL_SECONDS)
    assert await wait == AFTER
    bus.is_up = True
    read = rows.read
    clock.advance(POLL_SECONDS)
    await moment()
    assert rows.read == read
    await end_tasks(polling)


async def test_a_change_by_another_replica_is_read():
    told, rows = Notifier(LocalBus()), Rows()
    wait = waiting(told, rows)
    await moment()
    rows.session = AFTER
    told.received("b", "s-1")
    assert await wait == AFTER


async def test_there_may_be_no_such_session():
    assert await waiting(Notifier(LocalBus()), Rows(None)) is None
