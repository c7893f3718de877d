"""Hints reach the replica that looks after machines, whichever takes them."""

import asyncio

from dispatcher.bus import Hub, LocalBus
from dispatcher.domain.admission import Limits
from dispatcher.sessions.hints import Hints
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.store.store import Store
from tests.dispatcher.harness import ManualClock
from tests.dispatcher.rows import rows


async def test_every_replica_hears_of_a_meetings_end_once(tmp_path):
    hub, clock = Hub(), ManualClock()
    store = Store(f"sqlite:///{tmp_path}/store.db")
    await store.open()
    session, machine = rows()
    assert await store.writes.add(session, machine, machine, Limits({"echo": 1}, {"echo": 0}), "tester")
    background = DurableBackground(store, clock)
    heard: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    replicas = {}
    for name, machines in heard.items():
        bus = LocalBus(name, hub)
        replicas[name] = Hints(
            store=store,
            repository=Repository(store, Notifier(bus), clock, name, background),
            bus=bus,
            background=background,
            look_soon=machines.append,
        )
        await bus.open()
    replicas["b"].about_room(session.id, "Somebody came.", is_end=False)
    replicas["a"].about_room(session.id, "The meeting ended.", is_end=True)
    await background.settle()
    await asyncio.sleep(0)
    assert heard == {name: [machine.id] for name in heard}
    assert [event.kind for event in await store.events(session.id)].count("room-event") == 2
    await background.stop_asking()
    await store.close()
