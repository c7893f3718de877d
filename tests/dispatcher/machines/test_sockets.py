"""Clients' and machines' WebSockets, joined: scripted sockets and a clock by hand."""

from __future__ import annotations

import asyncio

import pytest

from bot.protocol import MAX_SOCKET_FRAME_BYTES
from dispatcher.machines.sockets import IDLE, IDLE_SECONDS, REPLACED, TOO_BIG, SocketClosed, Sockets, Taken
from tests.dispatcher.harness import ManualClock
from tests.patience import PATIENCE


class ScriptedSocket:
    """One end's WebSocket. `slow` takes no frame until it is set free."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[str | bytes | SocketClosed] = asyncio.Queue()
        self.got: list[str | bytes] = []
        self.closed: tuple[int, str] | None = None
        self.read = 0
        self.free = asyncio.Event()
        self.free.set()

    async def receive(self) -> str | bytes:
        said = await self.says.get()
        if isinstance(said, SocketClosed):
            raise said
        self.read += 1
        return said

    async def send(self, frame: str | bytes) -> None:
        await self.free.wait()
        if self.closed:
            raise SocketClosed
        self.got.append(frame)

    async def close(self, code: int, reason: str) -> None:
        self.closed = self.closed or (code, reason)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


class Talk:
    """A client and a machine that are joined."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.sockets = Sockets(self.clock)
        self.client, self.machine = ScriptedSocket(), ScriptedSocket()

    async def __aenter__(self) -> Talk:
        self.waiting = asyncio.create_task(self.sockets.wait_for_client("s", self.machine))
        claim = self.sockets.claim("s")
        assert await claim.machine() is self.machine

        async def talk() -> None:
            try:
                await claim.talk(self.client, self.machine)
            finally:
                claim.release()

        self.talking = asyncio.create_task(talk())
        await settle()
        return self

    async def over(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(self.talking, self.waiting)

    async def __aexit__(self, *_: object) -> None:
        self.talking.cancel()
        self.waiting.cancel()
        await asyncio.gather(self.talking, self.waiting, return_exceptions=True)


async def test_frames_pass_both_ways_in_order_as_they_are():
    async with Talk() as talk:
        frames = ["text", b"bytes", "", b"", "ü" * 1000]
        for frame in frames:
            talk.client.says.put_nowait(frame)
            talk.machine.says.put_nowait(frame)
        await settle()
        assert talk.machine.got == talk.client.got == frames


@pytest.mark.parametrize("who", ["client", "machine"])
async def test_both_sides_close_with_the_code_of_who_closed_first(who):
    async with Talk() as talk:
        getattr(talk, who).says.put_nowait(SocketClosed(4001, "bye"))
        await talk.over()
        assert talk.client.closed == talk.machine.closed == (4001, "bye")


@pytest.mark.parametrize("who", ["client", "machine"])
async def test_both_sides_close_when_one_does_not_take_frames_any_more(who):
    async with Talk() as talk:
        gone, other = (talk.client, talk.machine) if who == "client" else (talk.machine, talk.client)
        gone.closed = (1006, "")
        other.says.put_nowait("anybody?")
        await talk.over()
        assert other.closed is not None


async def test_no_more_than_one_frame_is_read_when_other_side_is_slow():
    async with Talk() as talk:
        talk.machine.free.clear()
        for _ in range(100):
            talk.client.says.put_nowait(b"audio")
        await settle()
        assert talk.client.read == 1
        talk.machine.free.set()
        await settle()
        assert len(talk.machine.got) == 100


@pytest.mark.parametrize("who", ["client", "machine"])
@pytest.mark.parametrize(
    ("size", "passes"), [(MAX_SOCKET_FRAME_BYTES, True), (MAX_SOCKET_FRAME_BYTES + 1, False)]
)
async def test_both_sides_close_when_frame_is_over_the_limit(who, size, passes):
    async with Talk() as talk:
        getattr(talk, who).says.put_nowait(bytes(size))
        await settle()
        assert (talk.client.closed is None) == passes
        if not passes:
            assert talk.client.closed is not None
            assert talk.client.closed[0] == TOO_BIG
            assert talk.client.got == talk.machine.got == []


async def test_both_sides_close_when_no_frame_has_passed_for_long():
    async with Talk() as talk:
        talk.clock.advance(IDLE_SECONDS - 1)
        await settle()
        talk.client.says.put_nowait("still here")
        await settle()
        talk.clock.advance(IDLE_SECONDS - 1)
        await settle()
        assert talk.client.closed is None
        talk.clock.advance(2)
        await talk.over()
        assert talk.client.closed is not None
        assert talk.client.closed[0] == IDLE


async def test_second_client_is_refused_while_first_waits_or_talks():
    sockets = Sockets(ManualClock())
    claim = sockets.claim("s")
    with pytest.raises(Taken):
        sockets.claim("s")
    claim.release()
    sockets.claim("s").release()
    async with Talk() as talk:
        with pytest.raises(Taken):
            talk.sockets.claim("s")


async def test_machines_later_socket_replaces_one_that_waits():
    sockets = Sockets(ManualClock())
    earlier, later = ScriptedSocket(), ScriptedSocket()
    first = asyncio.create_task(sockets.wait_for_client("s", earlier))
    await settle()
    second = asyncio.create_task(sockets.wait_for_client("s", later))
    await asyncio.wait_for(first, PATIENCE)
    assert earlier.closed is not None
    assert earlier.closed[0] == REPLACED
    claim = sockets.claim("s")
    assert await claim.machine() is later
    claim.release()
    await asyncio.wait_for(second, PATIENCE)


async def test_machines_socket_that_went_is_not_given_to_a_client():
    sockets = Sockets(ManualClock())
    socket = ScriptedSocket()
    waiting = asyncio.create_task(sockets.wait_for_client("s", socket))
    await settle()
    sockets.gone("s", socket)
    await asyncio.wait_for(waiting, PATIENCE)
    claim = sockets.claim("s")
    arriving = asyncio.create_task(claim.machine())
    await settle()
    assert not arriving.done()
    again = ScriptedSocket()
    waiting = asyncio.create_task(sockets.wait_for_client("s", again))
    assert await asyncio.wait_for(arriving, PATIENCE) is again
    claim.release()
    await asyncio.wait_for(waiting, PATIENCE)


async def test_second_socket_of_machine_is_closed_during_a_talk():
    async with Talk() as talk:
        second = ScriptedSocket()
        await talk.sockets.wait_for_client("s", second)
        assert second.closed is not None
        assert second.closed[0] == REPLACED
        assert talk.machine.closed is None


async def test_nothing_is_left_of_a_session_when_both_sides_are_gone():
    async with Talk() as talk:
        talk.client.says.put_nowait(SocketClosed())
        await talk.over()
        assert len(talk.sockets) == 0
