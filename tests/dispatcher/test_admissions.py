"""Connections that have not authenticated: how many there may be, and which is closed for a new one."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable

import pytest
from websockets.frames import Frame, Opcode

from bot.protocol import CHANNEL_PATH, Hello
from dispatcher.admissions import LOG_SECONDS, Admissions
from dispatcher.clock import SystemClock
from dispatcher.tokens import MachineTokens, Signer
from tests.dispatcher.command import Command
from tests.patience import PATIENCE


class Held:
    """A connection that is there until it is aborted."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def admissions(descriptors=64, told=None, now=lambda: 0.0):
    return Admissions(descriptors, (told if told is not None else []).append, now)


def opened(counted, *hosts):
    held = [Held() for _ in hosts]
    for connection, host in zip(held, hosts, strict=True):
        counted.opened(connection, host)
    return held


def test_oldest_connection_of_an_address_is_closed_when_it_has_too_many():
    told = []
    counted = admissions(64, told)  # 8 that have not authenticated, 4 of one address
    other, *held = opened(counted, "192.0.2.1", *["192.0.2.2"] * 5)
    assert [connection.aborted for connection in (other, *held)] == [False, True, *[False] * 4]
    assert told == ["address"]


def test_oldest_connection_of_all_is_closed_when_there_are_too_many():
    told = []
    held = opened(admissions(64, told), *(f"192.0.2.{n}" for n in range(9)))
    assert [connection.aborted for connection in held] == [True, *[False] * 8]
    assert told == ["unauthenticated"]


@pytest.mark.parametrize("hosts", [[f"2001:db8::{n:x}" for n in range(5)], ["::ffff:192.0.2.1"] * 5])
def test_network_of_an_ipv6_customer_is_one_address(hosts):
    told = []
    opened(admissions(64, told), *hosts)
    assert told == ["address"]


def test_authenticated_connection_is_never_closed_for_another():
    told = []
    counted = admissions(64, told)
    [client] = opened(counted, "192.0.2.1")
    assert counted.admit(client)
    opened(counted, *["192.0.2.1"] * 20)
    assert not client.aborted


def test_clients_beyond_half_of_the_descriptors_are_not_admitted_until_one_leaves():
    told = []
    counted = admissions(8, told)
    held = [opened(counted, f"192.0.2.{n}")[0] for n in range(1)]
    for n in range(1, 5):
        assert counted.admit(held[-1])
        held += opened(counted, f"192.0.2.{n}")
    assert not counted.admit(held[-1])
    assert told == ["authenticated"]
    counted.closed(held[0])
    assert counted.admit(held[-1])


def test_refusals_are_logged_once_a_minute(caplog):
    now = [0.0]
    counted = admissions(64, now=lambda: now[0])
    with caplog.at_level(logging.WARNING):
        opened(counted, *["192.0.2.1"] * 100)
        assert len(caplog.records) == 1
        now[0] = LOG_SECONDS
        opened(counted, "192.0.2.1")
    assert "96 refused" in caplog.messages[1]


def test_half_sent_requests_do_not_take_all_file_descriptors(tmp_path):
    command = Command(tmp_path)
    log = tmp_path / "log"
    with (
        contextlib.closing(command),
        contextlib.ExitStack() as held,
        log.open("w") as errors,
        command.serving(errors, descriptors=256),
    ):
        for _ in range(300):
            connection = socket.create_connection(("127.0.0.1", command.port), timeout=10)
            held.enter_context(connection)
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: half")
        # Without keys everybody here is a client: another address than theirs is not needed.
        assert command.http.get("/v1/agents", timeout=10).status_code == 200
        started = command.http.post("/start?wait=none", timeout=PATIENCE)
        assert started.status_code == 200
        metrics = command.http.get("/metrics", timeout=10).text
    refused = 'switchboard_connections_refused_total{limit="address"} '
    [line] = [line for line in metrics.splitlines() if line.startswith(refused)]
    assert float(line.removeprefix(refused)) >= 280
    assert log.read_text().count("too many connections") == 1
    assert "Too many open files" not in log.read_text()


def upgrade(token: str) -> bytes:
    lines = [
        f"GET {CHANNEL_PATH} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Authorization: Bearer {token}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def as_nobody(_token: str, _number: int) -> bytes:
    return upgrade("none")


def as_a_machine_that_says_nothing(token: str, _number: int) -> bytes:
    return upgrade(token)


def as_a_machine_that_says_hello(token: str, number: int) -> bytes:
    hello = Hello(machine_id="m-1", phase="starting", opened_at=number).model_dump_json()
    return upgrade(token) + Frame(Opcode.TEXT, hello.encode()).serialize(mask=True)


@pytest.mark.parametrize(
    "connects", [as_nobody, as_a_machine_that_says_nothing, as_a_machine_that_says_hello]
)
def test_channels_that_are_never_closed_do_not_take_all_file_descriptors(
    tmp_path, connects: Callable[[str, int], bytes]
):
    command = Command(tmp_path)
    log = tmp_path / "log"
    with (
        contextlib.closing(command),
        contextlib.ExitStack() as held,
        log.open("w") as errors,
        command.serving(errors, descriptors=256) as process,
    ):
        secret = (tmp_path / "data" / "machine-token.key").read_bytes()
        token = MachineTokens(Signer([secret], SystemClock()), SystemClock()).issue("m-1", 3600)
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", command.port), timeout=10)
            held.enter_context(connection)
            connection.sendall(connects(token, number))
            with contextlib.suppress(ConnectionError):
                connection.recv(4096)
        assert command.http.get("/v1/agents", timeout=10).status_code == 200
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 100
    assert "Too many open files" not in log.read_text()
    assert len(log.read_text()) < 20_000
