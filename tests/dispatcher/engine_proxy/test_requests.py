"""Where a request begins and ends: what two readers might take for different requests is refused."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from pathlib import Path

import pytest

from tests.dispatcher.engine_proxy.world import CREATE, wanted, world
from tests.patience import PATIENCE


def chunked(content: bytes, part_bytes: int = 2**20, size: str = "{:x}") -> bytes:
    parts = [content[start : start + part_bytes] for start in range(0, len(content), part_bytes)]
    return (
        b"".join(f"{size.format(len(part))}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"
    )


VALID = json.dumps(wanted()).encode()
LENGTH = f"Content-Length: {len(VALID)}"
CHUNKS = "Transfer-Encoding: chunked"


async def status_of_create(port: int, lengths: str, content: bytes) -> int:
    """The answer to a create with these headers for its body's length."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {CREATE} HTTP/1.1\r\nHost: x\r\n{lengths}\r\nConnection: close\r\n\r\n".encode() + content
    )
    async with asyncio.timeout(PATIENCE):
        answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("lengths", "content"),
    [
        # Two lengths, or a length and chunks: who reads the one and who reads the other see other requests.
        (f"{CHUNKS}\r\n{LENGTH}", chunked(VALID)),
        (f"{CHUNKS}\r\n{LENGTH}", VALID),
        (f"{LENGTH}\r\n{CHUNKS}", chunked(VALID)),
        (f"{LENGTH}\r\n{CHUNKS}", VALID),
        (f"{LENGTH}\r\nContent-Length: {len(VALID) + 1}", VALID),
        (f"Content-Length: +{len(VALID)}", VALID),
        (f"{CHUNKS}, identity", chunked(VALID)),
        ("Transfer-Encoding : chunked", chunked(VALID)),
        ("Transfer-Encoding: xchunked", chunked(VALID)),
        (CHUNKS, chunked(VALID, size="0x{:x}")),
        (CHUNKS, chunked(VALID, size="+{:x}")),
    ],
)
async def test_a_body_of_unclear_length_never_reaches_the_engine(
    tmp_path: Path, lengths: str, content: bytes
) -> None:
    """The request has a body that a reader of only one of the headers would let through."""

    async with world(tmp_path) as proxy:
        assert await status_of_create(proxy.port, lengths, content) == 400
        assert proxy.engine.asked == []
        # With a clear one it is.
        assert await status_of_create(proxy.port, LENGTH, VALID) == 201
        assert proxy.changed == [("POST", CREATE)]


async def test_a_body_in_chunks_is_read_like_any_other(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        for content, expected in ((wanted(), 201), (wanted() | {"User": "0"}, 403)):
            sent = chunked(json.dumps(content).encode(), part_bytes=7)
            assert await status_of_create(proxy.port, CHUNKS, sent) == expected
        assert proxy.changed == [("POST", CREATE)]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzip.compress(VALID)),
        ("GZIP", gzip.compress(VALID)),
        ("gzip", gzip.compress(VALID)[:-9]),
        ("gzip", b"hello"),
        ("gzip", VALID),
        ("deflate", zlib.compress(VALID)),
        ("br", VALID),
        ("identity", VALID),
        ("", VALID),
    ],
)
async def test_an_encoded_body_is_refused_and_not_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, content: bytes
) -> None:
    async with world(tmp_path) as proxy:
        encoded = f"Content-Encoding: {encoding}"
        for lengths, sent in ((f"Content-Length: {len(content)}", content), (CHUNKS, chunked(content))):
            assert await status_of_create(proxy.port, f"{encoded}\r\n{lengths}", sent) == 403
        assert proxy.engine.asked == []
        assert caplog.text.count("Content-Encoding: is refused") == 2
        assert "Traceback" not in caplog.text


async def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        made = wanted() | {"Cmd": ["x" * 2**20]}
        status, _ = await proxy.call("POST", CREATE, made)
        assert status == 413
        assert proxy.engine.asked == []


async def test_a_second_request_behind_the_first_is_judged_by_itself(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(
            b"GET /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n"
            b"GET /v1.41/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        assert answer.count(b"HTTP/1.1 200") == 1
        assert answer.count(b"HTTP/1.1 403") == 1
        assert [path for _, path, _ in proxy.engine.asked] == ["/v1.41/info"]


async def test_an_upgrade_is_not_passed_on(tmp_path: Path) -> None:
    async with world(tmp_path) as proxy:
        head = "POST /v1.41/containers/calls-m-1/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp"
        status, _ = await proxy.raw(head)
        assert status == 403
        assert proxy.engine.asked == []
