"""Channels of several replicas on one bus: to a caller it makes no difference where a machine is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from bot.protocol import FromDispatcher, Request, Response, Stop
from dispatcher.bus import Hub, LocalBus
from dispatcher.machines.channels import ChannelLost, Channels
from dispatcher.sessions.notifier import Notifier
from dispatcher.store.bus import PostgresBus
from dispatcher.tasks import end_tasks
from tests.dispatcher.harness import ManualClock, eventually
from tests.patience import PATIENCE
from tests.postgres import Postgres, StopMode

HEARTBEAT = 5.0
MACHINE = "m-1"


@dataclass
class Wire:
    """A machine's connection, as a replica sees it."""

    sent: list[FromDispatcher] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    broken: bool = False

    async def send(self, message: FromDispatcher) -> None:
        if self.broken or self.closed:
            raise ChannelLost("broken")
        self.sent.append(message)

    async def close(self, reason: str) -> None:
        self.closed.append(reason)

    @property
    def requests(self) -> list[str]:
        return [message.id for message in self.sent if isinstance(message, Request)]


class Unreliable(LocalBus):
    """Loses what is published while it is told to, and says that it resumes afterwards."""

    def __init__(self, replica: str, hub: Hub) -> None:
        super().__init__(replica, hub)
        self.losing = False
        self.published: list[str] = []

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        self.published.append(payload)
        return not self.losing and super().publish(topic, payload, to)

    def recover(self) -> None:
        self.losing = False
        assert self._hub is not None
        for member in self._hub.members.values():
            for subscriber in member._subscribers.values():
                subscriber.resumed()


class Replicas:
    """Channels that share a hub and a clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.hub = Hub()
        self.buses: dict[str, Unreliable] = {}
        self.lost: list[str] = []
        self._channels: dict[str, Channels] = {}

    async def join(self, name: str) -> Channels:
        bus = self.buses[name] = Unreliable(name, self.hub)
        channels = Channels(bus, self.clock, HEARTBEAT, lambda: self.lost.append(name))
        await bus.open()
        channels.open()
        self._channels[name] = channels
        await settle()
        return channels

    async def leave(self, name: str) -> None:
        await self._channels.pop(name).close()
        await self.buses.pop(name).close()

    async def close(self) -> None:
        for name in list(self._channels):
            await self.leave(name)

    async def attach(self, channels: Channels, opened_at: float = 0.0, machine: str = MACHINE) -> Wire:
        wire = Wire()
        await channels.attach(machine, wire, self.clock.now(), opened_at)
        await settle()
        return wire

    async def beat(self, seconds: float, *alive: Channels, machine: str = MACHINE) -> None:
        """Let time pass; the machine is heard by these once a second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            for channels in alive:
                channels.heard(machine, self.clock.now())
            await settle()


async def settle() -> None:
    """Let everything happen that does not wait for time."""
    for _ in range(30):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[Replicas, Channels, Channels]]:
    replicas = Replicas()
    try:
        yield replicas, await replicas.join("a"), await replicas.join("b")
    finally:
        await replicas.close()


def request(name: str = "r") -> Request:
    return Request(id=name, method="GET", path="status")


def answer(request_id: str, body: str = "") -> Response:
    return Response(id=request_id, status=200, body=body)


async def test_a_message_is_sent_to_a_machine_of_another_replica():
    async with two() as (replicas, a, b):
        wire = await replicas.attach(a)
        assert await b.send(MACHINE, Stop(message="enough"))
        assert wire.sent == [Stop(message="enough")]
        assert not await b.send("m-unknown", Stop(message="enough"))
        wire.broken = True
        assert not await b.send(MACHINE, Stop(message="again"))
        assert a.detach(MACHINE, wire)
        await settle()
        assert not await b.send(MACHINE, Stop(message="again"))


async def test_a_send_does_not_wait_for_ever_for_a_replica_that_is_silent():
    async with two() as (replicas, a, b):
        await replicas.attach(a)
        replicas.buses["a"].losing = True
        sending = asyncio.create_task(b.send(MACHINE, Stop(message="enough")))
        await settle()
        assert not sending.done()
        replicas.clock.advance(5)
        assert not await sending
        replicas.buses["b"].losing = True
        assert not await b.send(MACHINE, Stop(message="enough")), "at once: nothing went out"


@pytest.mark.parametrize("size", [1, 1024 * 1024])
async def test_a_call_is_answered_from_another_replica(size: int):
    async with two() as (replicas, a, b):
        wire = await replicas.attach(a)
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        [request_id] = wire.requests
        a.answered(MACHINE, answer(request_id, "x" * size))
        a.answered(MACHINE, answer(request_id, "a second answer"))
        assert (await calling).body == "x" * size


@pytest.mark.parametrize("at", ["a", "b"])
async def test_a_call_is_held_until_the_machine_is_connected_anywhere(at: str):
    async with two() as (replicas, a, b):
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        there = {"a": a, "b": b}[at]
        wire = await replicas.attach(there)
        there.answered(MACHINE, answer(wire.requests[0]))
        assert (await calling).status == 200


@pytest.mark.parametrize(("first", "then"), [("a", "b"), ("b", "a"), ("b", "b"), ("a", "c")])
async def test_a_call_outlives_a_reconnect_to_any_replica(first: str, then: str):
    async with two() as (replicas, a, b):
        channels = {"a": a, "b": b, "c": await replicas.join("c")}
        wire = await replicas.attach(channels[first], 1.0)
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        channels[first].detach(MACHINE, wire)
        second = await replicas.attach(channels[then], 2.0)
        assert second.requests == wire.requests, "the same id: the machine runs it once"
        channels[then].answered(MACHINE, answer(second.requests[0]))
        assert (await calling).status == 200


async def test_a_call_outlives_the_replica_that_held_the_machine():
    async with two() as (replicas, a, b):
        await replicas.attach(a, 1.0)
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        await replicas.leave("a")
        wire = await replicas.attach(b, 2.0)
        b.answered(MACHINE, answer(wire.requests[0]))
        assert (await calling).status == 200


@pytest.mark.parametrize("loses", ["a", "b"])
async def test_what_the_bus_lost_of_a_call_is_made_good_when_it_resumes(loses: str):
    """The request of b, or the answer by a."""

    async with two() as (replicas, a, b):
        wire = await replicas.attach(a)
        replicas.buses[loses].losing = True
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        for request_id in wire.requests:
            a.answered(MACHINE, answer(request_id))
        await settle()
        assert not calling.done()
        before = len(wire.requests)
        replicas.buses[loses].recover()
        await settle()
        a.answered(MACHINE, answer(wire.requests[before]))
        assert (await calling).status == 200


async def test_an_answer_counts_only_from_the_machine_that_was_asked():
    async with two() as (replicas, a, b):
        wire = await replicas.attach(a)
        calling = asyncio.create_task(b.call(MACHINE, request()))
        await settle()
        a.answered("m-other", answer(wire.requests[0]))
        a.answered(MACHINE, answer("b.unknown"))
        a.answered(MACHINE, answer("x" * 5000))
        await settle()
        assert not calling.done()
        await end_tasks(calling)


async def test_a_later_connection_closes_the_one_at_another_replica():
    async with two() as (replicas, a, b):
        first = await replicas.attach(a, 1.0)
        second = await replicas.attach(b, 2.0)
        assert first.closed
        assert not second.closed
        assert not a.detach(MACHINE, first), "its place was taken: nobody need look after the machine"
        assert await a.send(MACHINE, Stop(message="over there"))
        assert second.sent == [Stop(message="over there")]


async def test_an_earlier_connection_that_is_noticed_late_is_closed_itself():
    async with two() as (replicas, a, b):
        second = await replicas.attach(b, 2.0)
        first = await replicas.attach(a, 1.0)
        assert first.closed
        assert not second.closed
        also_first = await replicas.attach(b, 1.5)
        assert also_first.closed
        assert not second.closed
        assert await a.send(MACHINE, Stop(message="over there"))


@pytest.mark.parametrize("later_is_told_first", [False, True])
async def test_of_two_connections_at_the_same_moment_exactly_the_later_one_stays(later_is_told_first: bool):
    async with two() as (replicas, a, b):
        c = await replicas.join("c")
        first, second = Wire(), Wire()
        # Neither replica has heard of the other's when it takes its own.
        attachments = [(a, first, 1.0), (b, second, 2.0)]
        for channels, wire, opened_at in attachments[:: -1 if later_is_told_first else 1]:
            await channels.attach(MACHINE, wire, replicas.clock.now(), opened_at)
        await settle()
        assert first.closed
        assert not second.closed
        assert await c.send(MACHINE, Stop(message="over there"))
        assert second.sent == [Stop(message="over there")]


async def test_the_end_of_an_earlier_connection_that_is_told_late_hides_no_later_one():
    async with two() as (replicas, a, b):
        c = await replicas.join("c")
        first = await replicas.attach(a, 1.0)
        second = Wire()
        await b.attach(MACHINE, second, replicas.clock.now(), 2.0)
        assert a.detach(MACHINE, first), "it has not heard of the other yet"
        await settle()
        assert await c.send(MACHINE, Stop(message="over there"))
        assert second.sent == [Stop(message="over there")]


async def test_a_replica_that_joins_learns_where_the_machines_are():
    async with two() as (replicas, a, _):
        wire = await replicas.attach(a)
        c = await replicas.join("c")
        assert c.last_heard(MACHINE) is not None
        assert await c.send(MACHINE, Stop(message="enough"))
        assert len(wire.sent) == 1


@pytest.mark.parametrize("comes", [True, False])
async def test_an_announcement_that_was_lost_unnoticed_is_made_good_within_a_heartbeat(comes: bool):
    async with two() as (replicas, a, b):
        if comes:
            replicas.buses["a"].losing = True
            await replicas.attach(a)
        else:
            wire = await replicas.attach(a)
            replicas.buses["a"].losing = True
            a.detach(MACHINE, wire)
        replicas.buses["a"].losing = False
        assert (b.last_heard(MACHINE) is None) is comes
        await replicas.beat(HEARTBEAT, a)
        assert (b.last_heard(MACHINE) is not None) is comes


async def test_a_machine_that_is_heard_elsewhere_is_heard_here():
    async with two() as (replicas, a, b):
        await replicas.attach(a)
        for _ in range(10):
            await replicas.beat(HEARTBEAT, a)
            heard = b.last_heard(MACHINE)
            assert heard is not None
            assert replicas.clock.now() - heard <= HEARTBEAT


async def test_a_machine_that_falls_silent_elsewhere_is_silent_here_after_three_heartbeats():
    async with two() as (replicas, a, b):
        await replicas.attach(a)
        # At every phase between the machine's heartbeats and the replicas'.
        for offset in range(int(HEARTBEAT)):
            await replicas.beat(4 * HEARTBEAT + offset, a)
            fell_silent = replicas.clock.now()
            await replicas.beat(3 * HEARTBEAT)
            assert b.last_heard(MACHINE) == a.last_heard(MACHINE) == fell_silent


async def test_machines_of_a_replica_that_vanished_are_silent_and_then_not_connected():
    async with two() as (replicas, a, b):
        await replicas.attach(a)
        await replicas.beat(HEARTBEAT, a)
        last = replicas.clock.now()
        await replicas.leave("a")
        await replicas.beat(3 * HEARTBEAT)
        assert b.last_heard(MACHINE) == last
        assert replicas.lost == []
        await replicas.beat(2 * HEARTBEAT)
        assert b.last_heard(MACHINE) is None
        assert replicas.lost == ["b"]
        assert not await b.send(MACHINE, Stop(message="enough"))


async def test_a_replica_that_vanished_is_noticed_in_its_time_where_the_clock_was_set_back():
    async with two() as (replicas, a, b):
        await replicas.attach(a)
        await replicas.beat(HEARTBEAT, a)
        await replicas.leave("a")
        replicas.clock.is_set(-600)
        await replicas.beat(6 * HEARTBEAT)
        assert b.last_heard(MACHINE) is None
        assert replicas.lost == ["b"]


async def test_heartbeats_stay_where_they_arrive():
    async with two() as (replicas, a, _):
        for number in range(1000):
            await a.attach(f"m-{number}", Wire(), replicas.clock.now())
        await settle()
        published = replicas.buses["a"].published
        published.clear()
        for _ in range(int(10 * HEARTBEAT)):
            replicas.clock.advance(1)
            for number in range(1000):
                a.heard(f"m-{number}", replicas.clock.now())
            await settle()
        assert len(published) == 10, "its own signs of life"
        assert all(json.loads(payload)["quiet"] == {} for payload in published)


async def test_a_replica_that_is_alone_says_nothing_and_knows_only_its_own():
    clock = ManualClock()
    channels = Channels(LocalBus(), clock, HEARTBEAT)
    channels.open()
    wire = Wire()
    await channels.attach(MACHINE, wire, clock.now())
    calling = asyncio.create_task(channels.call(MACHINE, request()))
    await settle()
    channels.answered(MACHINE, answer(wire.requests[0]))
    assert (await calling).status == 200
    channels.detach(MACHINE, wire)
    assert channels.last_heard(MACHINE) is None
    assert not await channels.send(MACHINE, Stop(message="enough"))
    assert channels.connected == 0
    await channels.close()


@dataclass
class OnPostgres:
    """A replica whose bus is the real one."""

    bus: PostgresBus
    channels: Channels
    notifier: Notifier


@contextlib.asynccontextmanager
async def on_postgres(url: str, clock: ManualClock) -> AsyncIterator[tuple[OnPostgres, OnPostgres]]:
    async with contextlib.AsyncExitStack() as stack:
        replicas = []
        for name in ("a", "b"):
            bus = PostgresBus(url, name, clock)
            notifier = Notifier(bus)
            channels = Channels(bus, clock, HEARTBEAT, on_lost=notifier.resumed)
            await bus.open()
            stack.push_async_callback(bus.close)
            channels.open()
            stack.push_async_callback(channels.close)
            replicas.append(OnPostgres(bus, channels, notifier))
        yield replicas[0], replicas[1]


async def received(wire: Wire, count: int) -> list[str]:
    """The ids of the requests that went over a connection, once there are so many."""
    return await eventually(lambda: asyncio.sleep(0, wire.requests), lambda ids: len(ids) >= count)


@pytest.mark.parametrize("size", [100, 100_000, 1024 * 1024])
async def test_calls_and_answers_of_any_size_cross_postgres(database: str, size: int):
    clock = ManualClock()
    async with on_postgres(database, clock) as (a, b):
        wire = Wire()
        await a.channels.attach(MACHINE, wire, clock.now())
        asked = request().model_copy(update={"body": "q" * size})
        calling = asyncio.create_task(b.channels.call(MACHINE, asked))
        request_id = (await received(wire, 1))[0]
        sent = wire.sent[0]
        assert isinstance(sent, Request)
        assert sent.body == asked.body
        # What a machine makes up as an id must not bring down the bus.
        a.channels.answered(MACHINE, answer("x" * 5000))
        a.channels.answered(MACHINE, answer(request_id, "a" * size))
        assert (await asyncio.wait_for(calling, PATIENCE)).body == "a" * size


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_call_and_a_wait_outlive_an_outage_of_the_database(
    postgres: Postgres, database: str, mode: StopMode
):
    clock = ManualClock()
    async with on_postgres(database, clock) as (a, b):
        wire = Wire()
        await a.channels.attach(MACHINE, wire, clock.now(), 1.0)
        calling = asyncio.create_task(b.channels.call(MACHINE, request()))
        request_id = (await received(wire, 1))[0]
        row = "starting"

        async def read(_: str) -> str:
            return row

        waiting = asyncio.create_task(b.notifier.until("s-1", read, lambda state: state == "ready"))
        await settle()
        await asyncio.to_thread(postgres.stop, mode)
        # While it is away the answer is lost, and the word of the change too.
        await eventually(lambda: asyncio.sleep(0), lambda _: not a.bus.publish("x", "x"))
        a.channels.answered(MACHINE, answer(request_id))
        row = "ready"
        a.notifier.notify("s-1")
        await settle()
        assert not calling.done()
        assert not waiting.done()
        before = len(wire.requests)
        await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(PATIENCE):
            while len(wire.requests) == before:
                clock.advance(0.2)
                await asyncio.sleep(0.01)
        assert set(wire.requests) == {request_id}
        a.channels.answered(MACHINE, answer(request_id, "late"))
        assert (await asyncio.wait_for(calling, PATIENCE)).body == "late"
        assert await asyncio.wait_for(waiting, PATIENCE) == "ready"
