"""A container's log: its end is read, within bounds, whatever the engine sends."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.container_frames import READ_BYTES
from dispatcher.machines.provider import LOG_BYTES
from tests.dispatcher.machines.engines import provider_of, shown
from tests.engine_api import versionless

MEBIBYTE = 2**20
STDOUT, STDERR = 1, 2
TIME = b"2023-11-14T22:13:20.000000001Z "


def frame(text: bytes, stream: int = STDOUT) -> bytes:
    """One of the engine's frames: Docker's API, "Attach to a container", stream format."""
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4) + text


Part = Callable[[bytes], AsyncIterator[bytes]]
"""Gives what an engine sends, with so much before each of its frames: their time, if it is asked for."""


class Printing:
    """An engine with one container that has printed something."""

    def __init__(self, printed: Part, status: str = "running") -> None:
        self.sent = 0
        self._printed = printed
        self._status = status

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if versionless(request).endswith("/json"):
            return web.json_response(shown("m-1", Status=self._status, ExitCode=0))
        response = web.StreamResponse()
        await response.prepare(request)
        time = TIME if request.query.get("timestamps") in ("1", "true", "True") else b""
        async for part in self._printed(time):
            await response.write(part)
            self.sent += len(part)
        return response


async def one_line_of_a_gibibyte(time: bytes) -> AsyncIterator[bytes]:
    """One frame, as the engine is free to make it."""
    yield bytes([STDOUT, 0, 0, 0]) + (1024 * MEBIBYTE).to_bytes(4) + time
    for _ in range(1024):
        yield b"x" * MEBIBYTE


async def lines_without_end(time: bytes) -> AsyncIterator[bytes]:
    lines = frame(time + b"x" * 999 + b"\n") * 1000
    while True:
        yield lines


@pytest.mark.parametrize("printed", [one_line_of_a_gibibyte, lines_without_end])
async def test_log_is_cut_while_it_is_read_when_a_bot_floods(tmp_path: Path, printed) -> None:
    engine = Printing(printed)
    async with provider_of(engine, tmp_path) as provider:
        part = await provider.read_log("m-1", 1000)
        assert part is not None
        assert part.skipped is None
        text = "\n".join(part.lines)
        assert len(text.encode()) <= LOG_BYTES
        assert "xxxxxx" in text
        assert text.endswith("[switchboard: the log goes on; only its first 20 MiB of these lines were read]")
    # Both ends have buffers.
    assert engine.sent < READ_BYTES + 16 * MEBIBYTE


@pytest.mark.parametrize("printed", [one_line_of_a_gibibyte, lines_without_end])
async def test_status_of_an_ended_container_has_a_bounded_output_when_its_bot_flooded(
    tmp_path: Path, printed
) -> None:
    async with provider_of(Printing(printed, "exited"), tmp_path) as provider:
        status = await provider.get("m-1")
        assert status is not None
        assert (status.state, status.exit_code) == (MachineState.gone, 0)
        assert len(status.output) < LOG_BYTES


async def test_log_takes_little_memory_when_a_bot_floods(tmp_path: Path) -> None:
    async with provider_of(Printing(one_line_of_a_gibibyte), tmp_path) as provider:
        await provider.read_log("m-1", 1)  # the client's own memory is there then
        tracemalloc.start()
        try:
            await provider.read_log("m-1", 1000)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # The engine of this test has a MiB for each part that it writes.
    assert peak < 12 * MEBIBYTE


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1000])
async def test_frames_are_put_together_when_they_come_in_pieces(tmp_path: Path, size: int) -> None:
    async def printed(time: bytes) -> AsyncIterator[bytes]:
        sent = frame(time + "a ä\n".encode()) + frame(b"") + frame(time + b"error ", STDERR)
        sent += frame(time + "ü".encode()[:1]) + frame(time + "ü".encode()[1:])
        sent += frame(time + b"\n") + b"\1\0"
        for at in range(0, len(sent), size):
            yield sent[at : at + size]
            await asyncio.sleep(0)

    async with provider_of(Printing(printed), tmp_path) as provider:
        part = await provider.read_log("m-1", 10)
        assert part is not None
        assert (part.lines, part.skipped) == (("a ä", "error ü"), 0)
    async with provider_of(Printing(printed, "exited"), tmp_path) as provider:
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.gone, 0, "a ä\nerror ü\n")
