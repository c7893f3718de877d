"""A load balancer: one address, and behind it whichever dispatcher takes connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from tests.load.dispatchers import Dispatcher


@contextlib.asynccontextmanager
async def forwarder(port: int, dispatchers: Sequence[Dispatcher]) -> AsyncIterator[None]:
    """Forward connections to the dispatchers in turn, and past those that do not take any."""
    turn = 0
    forwarding: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        for i in range(len(dispatchers)):
            dispatcher = dispatchers[(turn + i) % len(dispatchers)]
            with contextlib.suppress(OSError):
                behind = await asyncio.open_connection("127.0.0.1", dispatcher.port)
                break
        else:
            writer.close()
            return
        task = asyncio.create_task(_join(reader, behind[1], behind[0], writer))
        forwarding.add(task)
        task.add_done_callback(forwarding.discard)

    server = await asyncio.start_server(forward, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in list(forwarding):
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)


async def _join(
    one: asyncio.StreamReader,
    one_writer: asyncio.StreamWriter,
    other: asyncio.StreamReader,
    other_writer: asyncio.StreamWriter,
) -> None:
    copying = [
        asyncio.create_task(_copy(one, one_writer)),
        asyncio.create_task(_copy(other, other_writer)),
    ]
    try:
        await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        one_writer.close()
        other_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
