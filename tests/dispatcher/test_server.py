"""The HTTP server's start: a port that a killed dispatcher still holds, and what is garbage by then."""

import asyncio
import errno
import gc
import signal
import socket
import weakref

import pytest
import uvicorn

from dispatcher.server import Server, once_free
from tests.ports import free_port


def test_a_port_that_becomes_free_is_taken():
    address = ("127.0.0.1", free_port())
    with socket.create_server(address) as old, socket.socket() as new:
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        once_free(lambda: new.bind(address), sleep=lambda _: old.close())
        assert new.getsockname() == address


def test_a_port_that_stays_taken_is_given_up_after_a_second():
    address, slept = ("127.0.0.1", free_port()), []
    with (
        socket.create_server(address),
        socket.socket() as new,
        pytest.raises(OSError, match=str(errno.EADDRINUSE)),
    ):
        once_free(lambda: new.bind(address), sleep=slept.append)
    assert sum(slept) == pytest.approx(1)


def test_another_error_is_not_tried_again():
    with socket.socket() as new, pytest.raises(OSError, match=str(errno.EADDRNOTAVAIL)):
        once_free(lambda: new.bind(("192.0.2.1", 0)), sleep=lambda _: pytest.fail("it slept"))


class Node:
    """Refers to itself: only who looks for garbage finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_garbage_when_the_server_starts_is_not_kept_for_ever():
    async def run() -> None:
        config = uvicorn.Config(nothing, port=free_port(), lifespan="off", log_config=None)
        server = Server(config, on_drain=lambda: None, on_exit=lambda: None, drain_seconds=0)
        node = weakref.ref(Node())
        assert node() is not None
        server.should_exit = True
        await server.serve()
        assert node() is None

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()


class Draining:
    """A server that was told to exit, on a clock of the test's. It serves nobody."""

    def __init__(self, seconds: float) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.server = Server(
            uvicorn.Config(nothing, port=free_port(), lifespan="off", log_config=None),
            on_drain=lambda: self.told.append("drain"),
            on_exit=lambda: self.told.append("exit"),
            drain_seconds=seconds,
            elapsed=lambda: self.now,
        )
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        self.server.handle_exit(number, None)

    def is_over(self) -> bool:
        return asyncio.run(self.server.on_tick(1))


async def nothing(*_) -> None: ...


def test_a_drain_ends_when_its_time_is_over():
    draining = Draining(5)
    assert not draining.is_over()
    draining.now += 4.9
    assert not draining.is_over()
    draining.now += 0.1
    assert draining.is_over()
    assert draining.told == ["drain"], "once, and the exit is not yet"


def test_a_drain_of_no_seconds_is_none():
    assert Draining(0).is_over()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_and_a_third_the_wait_for_answers(number):
    draining = Draining(5)
    draining.signal(number)
    assert draining.is_over()
    assert not draining.server.force_exit
    draining.signal(signal.SIGINT)
    assert draining.server.force_exit
