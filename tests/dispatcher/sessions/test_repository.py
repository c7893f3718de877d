"""Writes whose answers are lost."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dispatcher.bus import LocalBus
from dispatcher.domain.admission import Limits
from dispatcher.domain.model import End
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.outage_retry import FIRST_PAUSE_SECONDS, DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.store.store import Store
from tests.dispatcher.harness import ManualClock, pass_time
from tests.dispatcher.rows import rows
from tests.patience import PATIENCE


async def test_waiter_sees_a_write_that_was_kept_when_its_answer_was_lost(tmp_path, monkeypatch):
    store, clock, bus = Store(f"sqlite:///{tmp_path}/store.db"), ManualClock(), LocalBus("a")
    await store.open()
    session, machine = rows()
    assert await store.writes.add(session, machine, machine, Limits({"echo": 1}, {"echo": 0}), "tester")
    background = DurableBackground(store, clock)
    repository = Repository(store, Notifier(bus), clock, "a", background)
    waiter = asyncio.create_task(repository.until(session.id, lambda current: current.over))
    for _ in range(10):  # it has read the row, and waits
        await asyncio.sleep(0)
    write = store.writes.update_session

    async def unanswered(*given: Any) -> None:
        await write(*given)
        raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    with monkeypatch.context() as lost:
        lost.setattr(store.writes, "update_session", unanswered)
        with pytest.raises(OperationalError):
            await repository.end(session.id, End("queue_timeout", "No slot became free."))
    async with asyncio.timeout(PATIENCE):
        found = await pass_time(clock, waiter, step=FIRST_PAUSE_SECONDS)
    assert found is not None
    assert found.reason == "queue_timeout"
    await background.settle()
    await background.stop_asking()
    await store.close()
