"""The channel's client end: what waits, what is sent again, and how long it waits in between."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.channel import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, Channel, Refused, backoff
from bot.protocol import (
    MAX_MESSAGE_BYTES,
    ClientConnected,
    FromDispatcher,
    Heartbeat,
    Hello,
    Latency,
    Phase,
    Ready,
    Stop,
    Timings,
)
from tests.bot.dispatcher import TOKEN, Dispatcher, dispatcher
from tests.patience import PATIENCE


class Time:
    """Sleeping takes no time, and is written down. The heartbeat's sleep alone lasts."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds > LONGEST_BACKOFF_SECONDS:
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self.seconds += seconds
        await asyncio.sleep(0)

    def now(self) -> float:
        return self.seconds


class Owner:
    """A machine that notes what it is told."""

    def __init__(self, phase: Phase = "waiting") -> None:
        self.phase: Phase = phase
        self.messages: list[FromDispatcher] = []
        self.without: list[float] = []

    def hello(self) -> Hello:
        return Hello(machine_id="m-1", phase=self.phase)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(phase=self.phase, rss_bytes=1, cpu_seconds=0.5)

    def is_alive(self) -> bool:
        return True

    def received(self, message: FromDispatcher) -> None:
        self.messages.append(message)

    def unconnected(self, seconds: float) -> None:
        self.without.append(seconds)


def latency(number: int) -> Latency:
    return Latency(kind="turn", milliseconds=number)


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Scene:
    def __init__(self, served: Dispatcher, token: str = TOKEN) -> None:
        self.owner = Owner()
        self.time = Time()
        self.channel = Channel(
            served.url, token, self.owner, sleep=self.time.sleep, now=self.time.now, chance=lambda: 1.0
        )
        self.task = asyncio.create_task(self.channel.run())

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_backoff_grows_to_its_longest_and_spreads_over_half_of_it(attempt, chance):
    seconds = backoff(attempt, chance)

    assert FIRST_BACKOFF_SECONDS / 2 <= seconds <= LONGEST_BACKOFF_SECONDS
    assert backoff(attempt, 0.0) <= seconds <= backoff(attempt, 1.0) <= 2 * backoff(attempt, 0.0)
    assert backoff(attempt + 1, chance) >= seconds


async def test_hello_comes_first_and_then_what_was_said_in_order():
    async with dispatcher() as served, Scene(served) as scene:
        scene.channel.send(Ready(timings=Timings(pipeline=1)))
        scene.channel.send(latency(1))
        await served.wait_for(Heartbeat)
        assert [message.type for message in served.heard] == ["hello", "ready", "latency", "heartbeat"]
        await served.send(Stop(message="enough"))
        await until(lambda: len(scene.owner.messages) == 2)
        assert scene.owner.messages[1] == Stop(message="enough")


async def test_after_a_break_it_says_hello_again_and_then_what_it_could_not_say():
    async with dispatcher() as served, Scene(served) as scene:
        await served.wait_for(Heartbeat)
        await served.stop()
        await until(lambda: not scene.channel.connected)
        before = len(served.heard)
        scene.owner.phase = "active"
        scene.channel.send(ClientConnected(timings=Timings(client=7)))
        for number in range(3):
            scene.channel.send(latency(number))
        await served.start()
        await served.wait_for(Heartbeat, after=before)

        hello, *rest, heartbeat = served.heard[before:]
        assert isinstance(hello, Hello)
        assert hello.phase == "active"
        assert rest == [ClientConnected(timings=Timings(client=7)), *map(latency, range(3))]
        assert heartbeat == scene.owner.heartbeat()


async def test_limit_of_an_hour_on_a_request_costs_a_moment_and_no_message():
    """Cloud Run ends every request after 60 minutes, the channel's WebSocket too."""
    async with dispatcher() as served, Scene(served) as scene:
        await served.wait_for(Heartbeat)
        scene.owner.phase = "active"
        for hour in range(3):
            scene.time.seconds += 3600
            before = len(served.heard)
            served.cut()
            # It is disconnected for a moment only: what it sleeps before it connects again is on record.
            await until(lambda hour=hour: len(scene.time.slept) > hour)
            scene.channel.send(latency(hour))
            await served.wait_for(type(latency(hour)), after=before)
            await served.wait_for(Heartbeat, after=before)

            hello, *others = served.heard[before:]
            assert isinstance(hello, Hello)
            assert hello.phase == "active"
            assert others.count(latency(hour)) == 1
        # One attempt each time, and well within what a missed heartbeat takes.
        assert scene.time.slept == [FIRST_BACKOFF_SECONDS] * 3
        assert served.close_codes == []


async def test_attempts_back_off_and_a_connection_that_stood_starts_over():
    async with dispatcher() as served, Scene(served) as scene:
        await served.wait_for(Heartbeat)
        await served.stop()
        await until(lambda: len(scene.time.slept) >= 8)
        assert scene.time.slept[:7] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
        assert scene.owner.without[:4] == pytest.approx([0, 0.2, 0.6, 1.4])
        before = len(served.heard)
        await served.start()
        await served.wait_for(Heartbeat, after=before)
        attempts = len(scene.time.slept)
        await served.close_connection(1001)
        await served.wait_for(Hello, after=before + 2)
        assert scene.time.slept[attempts] == 0.2
        assert scene.owner.without[attempts] == 0


@pytest.mark.parametrize("wrong", ["token", "later"])
async def test_a_refusal_ends_the_first_connection_only(wrong):
    async with dispatcher() as served, Scene(served, "other" if wrong == "token" else TOKEN) as scene:
        if wrong == "token":
            with pytest.raises(Refused, match=r"refused this machine \(HTTP 403\)"):
                await scene.task
            return
        await served.wait_for(Heartbeat)
        served.refuses = True
        await served.close_connection(1011)
        await until(lambda: len(scene.time.slept) >= 3)
        before = len(served.heard)
        served.refuses = False
        await served.wait_for(Hello, after=before)
        assert not scene.task.done()


async def test_a_message_that_it_does_not_know_is_passed_over():
    async with dispatcher() as served, Scene(served) as scene:
        await served.wait_for(Heartbeat)
        await served.send_text('{"type":"dance"}')
        await served.send_text("not even json")
        await served.send(Stop(message="enough"))
        await until(lambda: len(scene.owner.messages) == 2)
        assert scene.owner.messages[1] == Stop(message="enough")


async def test_a_frame_that_is_too_large_is_refused_and_the_channel_goes_on():
    async with dispatcher() as served, Scene(served) as scene:
        await served.wait_for(Heartbeat)
        before = len(served.heard)
        await served.send_text("x" * (MAX_MESSAGE_BYTES + 1))
        await served.wait_for(Hello, after=before)
        assert served.close_codes == [1009]
        await served.send(Stop(message="enough"))
        await until(lambda: Stop(message="enough") in scene.owner.messages)


async def test_only_so_much_waits_for_a_dispatcher_that_does_not_come_back():
    async with dispatcher() as served:
        channel = Channel(served.url, TOKEN, Owner())
        for number in range(1500):
            channel.send(latency(number))
        task = asyncio.create_task(channel.run())
        await served.wait_for(Latency, lambda message: message.milliseconds == 999)
        await served.wait_for(Heartbeat)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        said = [message.milliseconds for message in served.heard if isinstance(message, Latency)]
        assert said == list(range(1000))
