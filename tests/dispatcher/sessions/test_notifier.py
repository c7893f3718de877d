import asyncio
from dataclasses import replace

import pytest

from dispatcher.bus import Hub, LocalBus
from dispatcher.domain import transitions
from dispatcher.domain.model import Session
from dispatcher.sessions import notifier
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


def waiting(told: Notifier, rows: Rows, since: int | None = None) -> asyncio.Task[Session | None]:
    return asyncio.create_task(told.until_session("s-1", rows, started, since))


async def test_what_is_written_here_is_not_read_again():
    told, rows = Notifier(LocalBus()), Rows()
    wait = waiting(told, rows, told.mark())
    await moment()
    told.notify("s-1", BEFORE)
    await moment()
    assert not wait.done()
    told.notify("s-1", AFTER)
    assert await wait == AFTER
    assert rows.read == 0


async def test_writes_that_are_told_out_of_their_order_are_heard_all_the_same():
    told, rows = Notifier(LocalBus()), Rows()
    wait = waiting(told, rows, told.mark())
    await moment()
    told.notify("s-1", AFTER)
    told.notify("s-1", BEFORE)
    assert await wait == AFTER


@pytest.mark.parametrize("by", ["here", "another replica", "nobody knows"])
async def test_what_was_told_between_the_mark_and_the_wait_is_read(by):
    hub = Hub()
    bus, other = LocalBus("a", hub), LocalBus("b", hub)
    told, elsewhere = Notifier(bus), Notifier(other)
    await bus.open()
    await other.open()
    mark, rows = told.mark(), Rows(AFTER)
    if by == "here":
        told.notify("s-1", AFTER)
    elif by == "another replica":
        elsewhere.notify("s-1", AFTER)
    else:
        told.resumed()
    await moment()
    assert await waiting(told, rows, mark) == AFTER
    assert rows.read == 1


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
    wait = waiting(told, rows, told.mark())
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
    wait = waiting(told, rows, told.mark())
    await moment()
    rows.session = AFTER
    told.received("b", "s-1")
    assert await wait == AFTER


async def test_what_was_told_too_long_ago_to_be_remembered_is_read(monkeypatch):
    monkeypatch.setattr(notifier, "TOLD_KEPT", 2)

    told, rows = Notifier(LocalBus()), Rows(AFTER)
    mark = told.mark()
    told.notify("s-1", AFTER)
    for number in range(2, 5):
        told.notify(f"s-{number}")
    assert await waiting(told, rows, mark) == AFTER
    # What is marked now knows all that.
    wait = waiting(told, Rows(BEFORE), told.mark())
    await moment()
    assert not wait.done()
    wait.cancel()


async def test_there_may_be_no_such_session():
    assert await waiting(Notifier(LocalBus()), Rows(None)) is None
