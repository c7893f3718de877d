"""The bus between replicas, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dispatcher.store.bus import WAITING_MESSAGES, PostgresBus
from tests.dispatcher.harness import ManualClock, eventually
from tests.patience import PATIENCE
from tests.postgres import Postgres, StopMode

TOPIC = "news"


@dataclass
class Listener:
    """Takes down what it hears."""

    heard: list[tuple[str, str]] = field(default_factory=list)
    resumptions: int = 0

    def received(self, sender: str, payload: str) -> None:
        self.heard.append((sender, payload))

    def resumed(self) -> None:
        self.resumptions += 1

    async def hears(self, count: int) -> list[tuple[str, str]]:
        await eventually(lambda: asyncio.sleep(0), lambda _: len(self.heard) >= count)
        return self.heard


@dataclass
class Replicas:
    """Buses on one database, each with a listener."""

    url: str
    clock: ManualClock = field(default_factory=ManualClock)
    open: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def join(self, name: str) -> tuple[PostgresBus, Listener]:
        bus, listener = PostgresBus(self.url, name, self.clock), Listener()
        bus.subscribe(TOPIC, listener)
        await bus.open()
        self.open.push_async_callback(bus.close)
        return bus, listener

    async def pass_time(self, *listeners: Listener, resumptions: int) -> None:
        """Let the time of the backoffs pass until these were told that they resume, so many times in all."""
        async with asyncio.timeout(PATIENCE):
            while any(listener.resumptions < resumptions for listener in listeners):
                self.clock.advance(1)
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def replicas(database: str) -> AsyncIterator[Replicas]:
    running = Replicas(database)
    async with running.open:
        yield running


async def test_all_others_hear_what_is_published_and_the_speaker_does_not(database: str):
    async with replicas(database) as running:
        a, at_a = await running.join("a")
        _, at_b = await running.join("b")
        _, at_c = await running.join("c")
        assert a.publish(TOPIC, "hello, Wörld\n= #1")
        assert a.publish(TOPIC, "")
        for listener in (at_b, at_c):
            assert await listener.hears(2) == [("a", "hello, Wörld\n= #1"), ("a", "")]
        assert at_a.heard == []


async def test_a_message_to_one_replica_reaches_no_other(database: str):
    async with replicas(database) as running:
        a, at_a = await running.join("a")
        b, at_b = await running.join("b")
        _, at_c = await running.join("c")
        a.publish(TOPIC, "for b", to="b")
        b.publish(TOPIC, "for a", to="a")
        b.publish(TOPIC, "for all")
        assert await at_b.hears(1) == [("a", "for b")]
        assert await at_a.hears(2) == [("b", "for a"), ("b", "for all")]
        assert await at_c.hears(1) == [("b", "for all")]


@pytest.mark.parametrize("size", [7_900, 7_999, 8_000, 100_000, 1024 * 1024, 4 * 1024 * 1024])
async def test_a_message_may_be_as_large_as_a_frame_of_the_channel(database: str, size: int):
    async with replicas(database) as running:
        a, _ = await running.join("a")
        _, at_b = await running.join("b")
        payload = "ä" * (size // 2)
        a.publish(TOPIC, payload)
        assert await at_b.hears(1) == [("a", payload)]


async def test_large_and_small_messages_and_equal_ones_arrive_in_their_order(database: str):
    async with replicas(database) as running:
        a, _ = await running.join("a")
        _, at_b = await running.join("b")
        payloads = [str(number) * (20_000 if number % 3 == 0 else 1) for number in range(60)]
        payloads += ["again", "other", "again"]
        for payload in payloads:
            a.publish(TOPIC, payload)
        assert [payload for _, payload in await at_b.hears(len(payloads))] == payloads


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_after_an_outage_everybody_resumes_and_messages_go_through_again(
    postgres: Postgres, database: str, mode: StopMode, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "dispatcher.store.bus")

    async with replicas(database) as running:
        a, at_a = await running.join("a")
        b, at_b = await running.join("b")
        assert (at_a.resumptions, at_b.resumptions) == (1, 1)
        await asyncio.to_thread(postgres.stop, mode)
        await eventually(lambda: asyncio.sleep(0), lambda _: not a.publish(TOPIC, "lost"))
        await eventually(lambda: asyncio.sleep(0), lambda _: not b.publish(TOPIC, "lost"))
        for _ in range(100):
            assert not a.publish(TOPIC, "lost")
            running.clock.advance(1)
            await asyncio.sleep(0)
        await asyncio.to_thread(postgres.start)
        await running.pass_time(at_a, at_b, resumptions=2)
        before = len(at_b.heard)
        assert a.publish(TOPIC, "again")
        assert (await at_b.hears(before + 1))[before:] == [("a", "again")]
        assert b.publish(TOPIC, "x" * 100_000)
        assert (await at_a.hears(1))[-1] == ("b", "x" * 100_000)
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "the bus is down" in text]) == 2, "once for each replica"
    assert len([text for text in told if "stands again" in text]) == 2


async def test_those_who_missed_what_another_could_not_send_resume_too(postgres: Postgres, database: str):
    async with replicas(database) as running:
        a, at_a = await running.join("a")
        _, at_b = await running.join("b")
        # Only a's connections are broken: b hears nothing of it.
        with postgres.connect() as connection:
            backends = connection.execute(
                "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN \"switchboard_a\"%'"
            ).fetchall()
        assert len(backends) == 1
        await eventually(lambda: asyncio.sleep(0), lambda _: not a.publish(TOPIC, "lost"))
        assert at_b.resumptions == 1
        await running.pass_time(at_a, at_b, resumptions=2)


async def test_a_replica_that_starts_without_a_database_joins_later(postgres: Postgres, database: str):
    async with replicas(database) as running:
        await asyncio.to_thread(postgres.stop)
        a, at_a = await running.join("a")
        assert not a.publish(TOPIC, "lost")
        await asyncio.to_thread(postgres.start)
        await running.pass_time(at_a, resumptions=1)
        assert a.publish(TOPIC, "heard")


async def test_a_database_that_hangs_fills_no_memory_and_holds_nobody_up(
    database: str, caplog: pytest.LogCaptureFixture
):
    async with replicas(database) as running:
        a, at_a = await running.join("a")
        _, at_b = await running.join("b")
        # Nothing is awaited, so nothing goes out.
        taken = [a.publish(TOPIC, "x") for _ in range(WAITING_MESSAGES + 1000)]
        assert sum(taken) == WAITING_MESSAGES
        await running.pass_time(at_a, at_b, resumptions=2)
        assert a.publish(TOPIC, "again")
    assert len([record for record in caplog.records if "takes no messages" in record.getMessage()]) == 1


async def test_what_was_published_before_the_exit_is_heard(database: str):
    async with replicas(database) as running:
        _, at_b = await running.join("b")
        a, _ = await running.join("a")
        for number in range(2000):
            a.publish(TOPIC, str(number))
        await a.close()
        assert len(await at_b.hears(2000)) == 2000


async def test_a_subscriber_that_raises_does_not_end_the_bus(database: str, caplog: pytest.LogCaptureFixture):
    class Breaks(Listener):
        def received(self, sender: str, payload: str) -> None:
            super().received(sender, payload)
            raise KeyError(payload)

    async with replicas(database) as running:
        a, _ = await running.join("a")
        b, _ = await running.join("b")
        breaks = Breaks()
        b.subscribe("trouble", breaks)
        a.publish("trouble", "1")
        a.publish("trouble", "2")
        assert len(await breaks.hears(2)) == 2
    assert "could not be dealt with" in caplog.text
