"""The HTTP server's start: a port that a killed dispatcher still holds, and what is garbage by then."""

import asyncio
import errno
import gc
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
    async def nothing(*_) -> None: ...

    async def run() -> None:
        config = uvicorn.Config(nothing, port=free_port(), lifespan="off", log_config=None)
        server = Server(config, on_exit=lambda: None)
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
