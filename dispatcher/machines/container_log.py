"""The end of what a container has printed, read from its engine within bounds.

The engine frames what was printed (Docker's API, "Attach to a container", stream format): a byte for the
stream, three zeros, the length in four bytes, and so many bytes. A bot may print one line without end, and
the engine sends as long as it prints: nothing here waits for the end of a frame, of a line or of the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiodocker
import aiohttp

HEADER_BYTES = 8
CHUNK_BYTES = 64 * 1024

READ_BYTES = 20 * 2**20
"""Limit on what is read of one answer: more than 1,000 lines of Docker's, which it cuts at 16 KiB each."""

CUT = "\n[switchboard: the log goes on; only its first {} MiB of these lines were read]\n"


async def read_tail(docker: aiodocker.Docker, container: str, lines: int, most: int) -> str:
    """Return the last lines of a container, `most` bytes at most.

    The caller bounds the time.
    """
    tail, read = bytearray(), 0
    params = {"stdout": True, "stderr": True, "follow": False, "tail": lines}
    timeout = aiohttp.ClientTimeout(total=None)
    async with docker._query(f"containers/{container}/logs", params=params, timeout=timeout) as answer:
        async for printed in _unframed(answer.content):
            tail += printed
            read += len(printed)
            if read >= READ_BYTES:
                tail += CUT.format(READ_BYTES // 2**20).encode()
                answer.close()
                break
            if len(tail) > 2 * most:
                del tail[:-most]
    return tail[-most:].decode(errors="replace")


async def _unframed(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield what was printed, in pieces, whatever the engine's frames are."""
    header, left = b"", 0
    async for chunk in content.iter_chunked(CHUNK_BYTES):
        at = 0
        while at < len(chunk):
            if left == 0:
                taken = chunk[at : at + HEADER_BYTES - len(header)]
                header, at = header + taken, at + len(taken)
                if len(header) == HEADER_BYTES:
                    header, left = b"", int.from_bytes(header[4:])
                continue
            piece = chunk[at : at + left]
            left, at = left - len(piece), at + len(piece)
            yield piece
