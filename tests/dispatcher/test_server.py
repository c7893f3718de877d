"""Taking a port that a killed dispatcher still holds for a moment."""

import errno
import socket

import pytest

from dispatcher.server import once_free
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
