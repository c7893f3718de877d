"""The end of what a container has printed, read from its engine within bounds.

The engine frames what was printed (Docker's API, "Attach to a container", stream format): a byte for the
stream, three zeros, the length in four bytes, and so many bytes. A bot may print one line without end, and
the engine sends as long as it prints: nothing here waits for the end of a frame, of a line or of the answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiodocker
import aiohttp

HEADER_BYTES = 8
CHUNK_BYTES = 64 * 1024

READ_BYTES = 20 * 2**20
"""Limit on what is read of one answer: more than 1,000 lines of Docker's, which it cuts at 16 KiB each."""

TIME_BYTES = 64
"""More than the time before a piece has, which stays where the middle of the piece is left out."""

UNREAD = f"[switchboard: the log goes on; only its first {READ_BYTES // 2**20} MiB of these lines were read]"


@dataclass(frozen=True, slots=True)
class Printed:
    """What an engine has sent of a container's log."""

    pieces: Sequence[bytes]
    """Each is a frame: a line, or a part of a long one."""
    is_cut: bool
    """Pieces before these were left out, or bytes of them."""
    is_unread: bool
    """The engine had more to send."""

    def text(self) -> str:
        end = f"\n{UNREAD}\n" if self.is_unread else ""
        return b"".join(self.pieces).decode(errors="replace") + end


async def read_pieces(docker: aiodocker.Docker, container: str, most: int, **parameters: Any) -> Printed:
    """Read the last of what a container has printed, some `most` bytes.

    The caller bounds the time.

    Args:
        parameters: Of the engine's "Get container logs": `tail`, `since`, `timestamps`.
    """
    pieces: deque[bytearray] = deque()
    kept, read, is_cut = 0, 0, False
    params = {"stdout": True, "stderr": True, "follow": False, **parameters}
    timeout = aiohttp.ClientTimeout(total=None)
    async with docker._query(f"containers/{container}/logs", params=params, timeout=timeout) as answer:
        async for begins, printed in _unframed(answer.content):
            if begins:
                pieces.append(bytearray())
            pieces[-1] += printed
            kept += len(printed)
            read += len(printed)
            if read >= READ_BYTES:
                answer.close()
                break
            if kept > 2 * most:
                is_cut = True
                while len(pieces) > 1 and kept - len(pieces[0]) >= most:
                    kept -= len(pieces.popleft())
                if kept > 2 * most and len(pieces[-1]) > most + TIME_BYTES:
                    kept -= len(pieces[-1]) - most - TIME_BYTES
                    del pieces[-1][TIME_BYTES:-most]
    return Printed([bytes(piece) for piece in pieces], is_cut, read >= READ_BYTES)


async def _unframed(content: aiohttp.StreamReader) -> AsyncIterator[tuple[bool, bytes]]:
    """Yield what was printed as it comes, and whether it begins a frame."""
    header, left, begins = b"", 0, False
    async for chunk in content.iter_chunked(CHUNK_BYTES):
        at = 0
        while at < len(chunk):
            if left == 0:
                taken = chunk[at : at + HEADER_BYTES - len(header)]
                header, at = header + taken, at + len(taken)
                if len(header) == HEADER_BYTES:
                    header, left, begins = b"", int.from_bytes(header[4:]), True
                continue
            piece = chunk[at : at + left]
            left, at = left - len(piece), at + len(piece)
            yield begins, piece
            begins = False
