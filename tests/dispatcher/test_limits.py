"""What a connection may ask of the server."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest

from dispatcher.limits import MAX_HEAD_BYTES, MAX_URL_BYTES
from tests.dispatcher.harness import Deployment, deployment, eventually

HOST = b"Host: 127.0.0.1\r\n"


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
        async with asyncio.timeout(5):
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
def test_a_request_that_is_too_large_is_told_so(tmp_path, chunks, status):
    async def run():
        async with deployment(tmp_path) as running:
            answered, body = await said(running, *chunks)
            assert (answered, body["status"]) == (status, status)
            assert body["info"] == body["detail"]
            assert not running.provider.specs
            assert (await running.http.get("/healthz")).status_code == 200

    asyncio.run(run())


def test_a_large_request_within_the_limits_is_served(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            headers = {"X": "x" * (MAX_HEAD_BYTES - 10_000)}
            for _ in range(3):  # over one connection: each request has the limits for itself
                answer = await running.http.get("/healthz?" + "q" * (MAX_URL_BYTES - 100), headers=headers)
                assert answer.status_code == 200

    asyncio.run(run())


def test_headers_that_do_not_come_end_the_connection(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.limits.HEAD_SECONDS", 0.05)

    async def run():
        async with deployment(tmp_path) as running:
            status, body = await said(running, b"GET /healthz HTTP/1.1\r\nX: slow")
            assert (status, body["status"]) == (408, 408)
            reader, writer = await opened(running)
            writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
            async with asyncio.timeout(5):
                assert b'"ok"' in await reader.readuntil(b"}")
                writer.write(b"GET /healthz HTTP/1.1\r\nX: slow")
                assert (await reader.read()).startswith(b"HTTP/1.1 408"), (
                    "a further request has the same time"
                )
            writer.close()
            reader, writer = await opened(running)
            async with asyncio.timeout(5):
                assert await reader.read() == b"", "a connection without a request is closed in silence"
            writer.close()

    asyncio.run(run())


def test_a_reader_that_takes_nothing_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.limits.WRITE_SECONDS", 0.05)

    async def run():
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

    asyncio.run(run())
