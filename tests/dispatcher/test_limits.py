"""Limits of a connection to the server."""

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from dispatcher.api.bodies import MAX_BODY_BYTES, chunks_of
from dispatcher.limits import (
    BODY_SECONDS,
    HEAD_SECONDS,
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    MAX_URL_BYTES,
    WRITE_BYTES_PER_SECOND,
    WRITE_SECONDS,
    LimitedProtocol,
)
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.patience import PATIENCE

KEEP_ALIVE_SECONDS = 5
"""Uvicorn's own default."""

HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"POST /start HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


async def opened(running: Deployment) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(running.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def said(running: Deployment, *chunks: bytes) -> tuple[int, dict]:
    """The status and the problem that the server answers with before it closes the connection."""
    reader, writer = await opened(running)
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        ([b"GET /" + b"u" * MAX_URL_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n"], 414),
        ([b"GET /" + b"u" * 30_000, b"u" * 30_000], 414),
        ([b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n"], 431),
        ([b"GET / HTTP/1.1\r\n" + HOST + b"X: ", b"x" * 20_000, b"x" * 20_000], 431),
        ([b"GET / HTTP/1.1\r\n" + HOST, *[b"X: y\r\n" * 1000] * 6], 431),
        ([b"POST /start HTTP/1.1\r\nContent-Length: 2\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n{}"], 431),
    ],
)
async def test_a_request_that_is_too_large_is_told_so(tmp_path, chunks, status):
    async with deployment(tmp_path) as running:
        answered, body = await said(running, *chunks)
        assert (answered, body["status"]) == (status, status)
        assert body["info"] == body["detail"]
        assert not running.provider.specs
        assert (await running.http.get("/healthz")).status_code == 200


async def test_a_large_request_within_the_limits_is_served(tmp_path):
    async with deployment(tmp_path) as running:
        headers = {"X": "x" * (MAX_HEAD_BYTES - 10_000)}
        for _ in range(3):  # over one connection: each request has the limits for itself
            answer = await running.http.get("/healthz?" + "q" * (MAX_URL_BYTES - 100), headers=headers)
            assert answer.status_code == 200


async def test_headers_that_do_not_come_end_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.limits.HEAD_SECONDS", 0.05)

    async with deployment(tmp_path) as running:
        status, body = await said(running, b"GET /healthz HTTP/1.1\r\nX: slow")
        assert (status, body["status"]) == (408, 408)
        reader, writer = await opened(running)
        writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            assert b'"ok"' in await reader.readuntil(b"}")
            writer.write(b"GET /healthz HTTP/1.1\r\nX: slow")
            assert (await reader.read()).startswith(b"HTTP/1.1 408"), "a further request has the same time"
        writer.close()
        reader, writer = await opened(running)
        async with asyncio.timeout(PATIENCE):
            assert await reader.read() == b"", "a connection without a request is closed in silence"
        writer.close()


async def test_a_reader_that_takes_nothing_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.limits.WRITE_SECONDS", 0.05)

    async with deployment(tmp_path) as running:
        reader, writer = await opened(running)
        request = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
        # Many answers of 60 kB that nobody reads, until the buffers between are full.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request * 400)

        async def cut() -> bool:
            try:
                writer.write(b"\r\n")
                await asyncio.wait_for(writer.drain(), 0.01)
            except (ConnectionError, TimeoutError):
                pass
            return writer.transport.is_closing()

        assert await eventually(cut, bool)
        assert not reader.at_eof()


@pytest.mark.parametrize(
    "chunks",
    [
        [b"how do you do\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],  # the begin of TLS
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nno header\r\n\r\n"],
        [b"GET http://[::1 HTTP/1.1\r\n" + HOST + b"\r\n"],
        [b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n"],
        [b"POST /start HTTP/1.1\r\n" + HOST + b"Content-Length: two\r\n\r\n{}"],
        [b"POST /start HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"],
        [CHUNKED, b"2\r\n{}\r\nno size\r\n"],
        [CHUNKED, b"2\r\n{}\r\n", b"0\r\nno trailer\r\n\r\n"],
    ],
)
async def test_what_is_no_http_is_told_so(tmp_path, chunks):
    async with deployment(tmp_path) as running:
        status, body = await said(running, *chunks)
        assert (status, body["status"]) == (400, 400)
        assert body["detail"] == "This is not a valid HTTP/1.1 request."
        assert not running.provider.specs


@pytest.mark.parametrize("url", ["/sessions/a%00b", "/v1/sessions?agent=%00"])
async def test_no_url_has_a_nul_character(tmp_path, url):
    async with deployment(tmp_path) as running:
        answer = await running.http.get(url)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "The URL contains a NUL character (%00)."


REFUSED = {
    "NUL": b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "URL": b"GET /" + b"u" * MAX_URL_BYTES + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "headers": b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    "body": CHUNKED + b"no size\r\n",
}


@pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
async def test_next_request_of_a_connection_does_not_run_after_a_refusal(tmp_path, caplog, refused):
    async with deployment(tmp_path) as running:
        session = (await running.start("/start?wait=none"))["sessionId"]
        second = b"DELETE /sessions/" + session.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        reader, writer = await opened(running)
        writer.write(refused + second)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 4")
        assert answer.count(b"content-length:") == 1
        assert (await running.http.get(f"/sessions/{session}")).json()["state"] != "ended"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_trailers_are_bounded_and_are_no_headers(tmp_path):
    async with deployment(tmp_path) as running:
        trailers = [b"X: y\r\n" * 1000] * 100
        status, _ = await said(running, CHUNKED, b"2\r\n{}\r\n0\r\n", *trailers)
        assert status == 431
        assert not running.provider.specs
        reader, writer = await opened(running)
        # As a header, this key would be refused for its space.
        writer.write(CHUNKED.replace(b"/start", b"/start?wait=none"))
        writer.write(b"2\r\n{}\r\n0\r\nIdempotency-Key: a b\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_an_answer_that_is_on_its_way_is_not_broken_by_a_refusal(tmp_path):
    async with deployment(tmp_path) as running:
        started = await running.start("/start?wait=none")
        reader, writer = await opened(running)
        path = f"/v1/sessions/{started['sessionId']}/events".encode()
        writer.write(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Accept: text/event-stream\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"event: queued")
            writer.write(b"what is no HTTP\r\n\r\n")
            assert b"HTTP/1.1" not in await reader.read()
        writer.close()


async def test_a_wish_for_another_protocol_is_declined(tmp_path):
    """As Java's and curl's clients send it with a first request."""

    async with deployment(tmp_path) as running:
        reader, writer = await opened(running)
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
        writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + upgrade + b"\r\n")
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_a_client_that_hangs_up_in_its_body_leaves_no_error_in_the_log(tmp_path, caplog):
    async with deployment(tmp_path) as running:
        _, writer = await opened(running)
        writer.write(b"POST /start HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await running.http.get("/healthz")).status_code == 200
        assert not running.provider.specs
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# Slow bodies, in virtual time.


class LoopByHand:
    """The part of a loop that uvicorn's protocol uses, with time that passes when a test says so."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, asyncio.TimerHandle]] = []
        self.create_task = asyncio.get_running_loop().create_task

    def time(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        at = self._now + delay
        handle = asyncio.TimerHandle(at, callback, args, asyncio.get_running_loop())
        self._timers.append((at, handle))
        return handle

    def advance(self, seconds: float) -> None:
        until = self._now + seconds
        while due := [timer for timer in self._timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self._timers.remove(first)
            self._now = max(self._now, first[0])
            if not first[1].cancelled():
                first[1]._run()
        self._now = until


HIGH_WATER = 65536
"""Bytes, from which on asyncio's and uvloop's transports want no more; from a quarter of it they do again."""


class Wire(asyncio.Transport):
    """The client's end of a connection.

    Args:
        system: Holds what was written before, as a real connection does.
    """

    def __init__(self, system: socket.socket | None = None) -> None:
        super().__init__({"socket": system})
        self.answered = b""
        self.ended = self.closed = self.paused = False
        self.reads = True
        """Whether the client takes what is written at once, and not only what a test lets it take."""
        self.aborted = False
        self._untaken = b""
        self._writing_paused = False
        self.protocol: LimitedProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "the answer had ended"
        self._untaken += bytes(data)
        if self.reads:
            self.take(len(self._untaken))
        elif self.protocol is not None and len(self._untaken) > HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self.protocol.pause_writing()

    def take(self, size: int) -> None:
        """The client takes so many bytes of what waits for it."""
        self.answered += self._untaken[:size]
        self._untaken = self._untaken[size:]
        if self.protocol is not None and self._writing_paused and len(self._untaken) <= HIGH_WATER // 4:
            self._writing_paused = False
            self.protocol.resume_writing()
        self._lose_if_done()

    def get_write_buffer_size(self) -> int:
        return len(self._untaken)

    def abort(self) -> None:
        self.ended = self.closed = self.aborted = True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = self.closed = True
        self._lose_if_done()

    def _lose_if_done(self) -> None:
        if self.closed and not self._untaken and self.protocol is not None:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
            self.protocol = None

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def measure(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body; to /refused before it is read, to /later only when told to.

    To /1000 with 1000 bytes.
    """
    request = Request(scope)
    if scope["path"] == "/refused":
        await Response(status_code=401)(scope, receive, send)
        return
    if scope["path"] == "/later":
        await scope["state"]["told"].wait()
    if (size := scope["path"].removeprefix("/")).isdecimal():
        await Response(b"x" * int(size))(scope, receive, send)
        return
    with contextlib.suppress(ClientDisconnect):
        request = Request(request.scope, receive)
        length = sum([len(chunk) async for chunk in chunks_of(request, MAX_BODY_BYTES)])
        await Response(str(length))(scope, receive, send)


class Line:
    """A connection to a server in virtual time."""

    def __init__(self, system: socket.socket | None = None) -> None:
        self.loop, self.wire, self.told = LoopByHand(), Wire(system), asyncio.Event()
        config = uvicorn.Config(measure, log_config=None)
        state = {"told": self.told}
        self._protocol = LimitedProtocol(config, ServerState(), state, _loop=self.loop)
        self._protocol.connection_made(self.wire)
        self.wire.protocol = self._protocol

    async def send(self, data: bytes, then: float = 0.0) -> None:
        if not self.wire.closed:
            self._protocol.data_received(data)
        await self.settle()
        self.loop.advance(then)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def status(self) -> int | None:
        return int(self.wire.answered.split()[1]) if self.wire.answered else None


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def test_a_start_body_of_1_mib_may_come_over_a_phone_link():
    """GPRS with one time slot upwards: 9.05 kbit/s is its slowest coding, about 1,100 bytes/s."""

    line = Line()
    await line.send(head("/", f"Content-Length: {MAX_BODY_BYTES}"))
    for _ in range(MAX_BODY_BYTES // 1024):
        await line.send(b"x" * 1024, then=1.0)
    assert line.status == 200
    assert line.wire.answered.endswith(str(MAX_BODY_BYTES).encode())
    assert line.loop.time() > 900


@pytest.mark.parametrize(
    ("headers", "trickle"),
    [
        ("Content-Length: 1000", b"x"),
        ("Transfer-Encoding: chunked", b"1\r\nx\r\n"),
        ("Transfer-Encoding: chunked", b"1;extension=of-some-length\r\nx\r\n"),
    ],
)
async def test_a_body_that_trickles_has_an_end(headers, trickle):
    line = Line()
    await line.send(head("/", headers))
    while line.status is None:
        await line.send(trickle, then=1.0)
    assert line.status == 408
    assert b"application/problem+json" in line.wire.answered
    assert BODY_SECONDS <= line.loop.time() <= BODY_SECONDS + 2
    assert not line.wire.closed, "closed at once, the answer could be lost"
    line.loop.advance(LINGER_SECONDS)
    assert line.wire.closed


async def test_a_body_that_nobody_waits_for_earns_no_time():
    line = Line()
    await line.send(head("/refused", "Content-Length: 100000000"))
    assert line.status == 401
    while not line.wire.closed:
        await line.send(b"x" * 100_000, then=1.0)
    assert line.loop.time() <= BODY_SECONDS + 1
    assert line.wire.answered.count(b"HTTP/1.1") == 1


async def test_time_in_which_the_server_takes_nothing_is_not_the_clients():
    line = Line()
    await line.send(head("/later", "Content-Length: 200000"))
    await line.send(b"x" * 100_000, then=10 * BODY_SECONDS)
    assert line.wire.paused
    assert line.status is None
    line.told.set()
    await line.send(b"")
    await line.send(b"x" * 100_000)
    assert line.status == 200


async def test_a_client_that_was_not_told_to_continue_is_not_late():
    line = Line()
    await line.send(head("/later", "Content-Length: 2", "Expect: 100-continue"), then=10 * BODY_SECONDS)
    assert line.status is None
    line.told.set()
    await line.send(b"", then=BODY_SECONDS - 1)
    assert line.status == 100
    await line.send(b"{}")
    assert b"HTTP/1.1 200" in line.wire.answered


@pytest.mark.parametrize("after", [b"\r\n", b""])
async def test_a_connection_without_a_request_has_an_end(after):
    line = Line()
    # The answer is given before the body is there: the body's last byte comes when nobody waits for it.
    await line.send(head("/refused", "Content-Length: 2") + b"{")
    await line.send(b"}" + after)
    assert line.status == 401
    line.loop.advance(HEAD_SECONDS + 1)
    assert line.wire.closed


# Slow readers, in virtual time.


async def read_slowly(line: Line, request: bytes, *, pace: int, until: float) -> None:
    """Send a request, and take so many bytes of the answer each second, until that time at most."""
    line.wire.reads = False
    await line.send(request)
    while line.loop.time() < until and not line.wire.aborted:
        line.wire.take(pace)
        await line.send(b"", then=1.0)


CLOSE = "Connection: close"


@pytest.mark.parametrize("headers", [[], [CLOSE]])
async def test_a_reader_that_is_slow_but_steady_gets_all_of_a_large_answer(headers):
    """A proxied answer may have 4 MB: at 1,100 bytes/s, GPRS at its slowest, it takes an hour."""

    line = Line()
    await read_slowly(line, head("/4000000", *headers), pace=1100, until=3700)
    assert not line.wire.aborted
    assert line.wire.answered.count(b"x") == 4_000_000


async def test_a_reader_below_the_least_pace_is_cut_off():
    line = Line()
    await read_slowly(line, head("/100000"), pace=WRITE_BYTES_PER_SECOND - 20, until=1000)
    assert line.wire.aborted
    assert line.loop.time() == pytest.approx(WRITE_SECONDS, abs=1)


@pytest.mark.parametrize(
    ("requests", "cut_after"),
    [
        # Too large for the transport.
        ([head("/100000")], WRITE_SECONDS),
        ([head("/100000", CLOSE)], WRITE_SECONDS),
        # Small enough to be handed over whole: the wait begins as the connection is closed.
        ([head("/1000", CLOSE)], WRITE_SECONDS),
        ([head("/1000")], KEEP_ALIVE_SECONDS + WRITE_SECONDS),
        ([head("/1000"), head("/1000")], KEEP_ALIVE_SECONDS + WRITE_SECONDS),
        ([head("/1000"), head("/1000", "X: " + "x" * MAX_HEAD_BYTES)], LINGER_SECONDS + WRITE_SECONDS),
    ],
)
async def test_a_reader_that_takes_nothing_has_an_end(requests, cut_after):
    line = Line()
    line.wire.reads = False
    for request in requests:
        await line.send(request)
    line.loop.advance(cut_after - 1)
    assert not line.wire.aborted
    line.loop.advance(2)
    assert line.wire.aborted


@pytest.mark.parametrize("first", [100_000, 1_000_000])
async def test_a_reader_that_stops_earns_no_time_with_what_it_took_before(first):
    line = Line()
    line.wire.reads = False
    await line.send(head("/4000000"), then=1.0)
    line.wire.take(first)
    line.loop.advance(2 * WRITE_SECONDS)
    assert line.wire.aborted


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what they hold")
@pytest.mark.parametrize("reads", [True, False])
async def test_what_the_system_holds_is_taken_when_the_client_reads_it(reads):
    """The transport's own bytes stand still meanwhile: the system wants no more before much of it is gone."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        connection, _ = server.accept()
    with client, connection:
        connection.setblocking(False)
        held = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                held += connection.send(bytes(65536))
        line = Line(connection)
        line.wire.reads = False
        await line.send(head("/100000"), then=WRITE_SECONDS - 1)
        while reads and held > 0:
            held -= len(client.recv(65536))
        line.loop.advance(2)
        assert line.wire.aborted is not reads


async def test_a_reader_that_catches_up_has_no_end():
    line = Line()
    line.wire.reads = False
    await line.send(head("/100000"), then=KEEP_ALIVE_SECONDS - 1)
    line.wire.take(200_000)
    line.wire.reads = True
    await line.send(head("/1000"), then=KEEP_ALIVE_SECONDS)
    assert line.wire.answered.count(b"HTTP/1.1 200") == 2
    assert line.wire.closed
    line.loop.advance(2 * WRITE_SECONDS)
    assert not line.wire.aborted
