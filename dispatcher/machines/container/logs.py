"""Parts of a container's log, read from its engine within bounds.

The engine frames what was printed (Docker's API, "Attach to a container", stream format): a byte for the
stream, three zeros, the length in four bytes, and so many bytes. A bot may print one line without end, and
the engine sends as long as it prints: nothing here waits for the end of a frame, of a line or of the answer.

The engine keeps the log with the time of each line. A place in it is the time of its last piece and how many
pieces of that time there were: engines find lines by their time alone, and Podman tells it in seconds. A
piece that an engine writes with an earlier time than one before it, as of stdout and stderr in the same
microsecond, may be missed by who follows.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiodocker
import aiohttp

from dispatcher.machines.provider import LOG_BYTES, LogPart

HEADER_BYTES = 8
CHUNK_BYTES = 64 * 1024

READ_BYTES = 20 * 2**20
"""Limit on what is read of one answer: more than 1,000 of Docker's lines, which it cuts at 16 KiB each."""

TIME_BYTES = 64
"""Bytes kept from the beginning of a long piece: more than its timestamp takes."""

UNREAD = f"[switchboard: the log goes on; only its first {READ_BYTES // 2**20} MiB of these lines were read]"


@dataclass(frozen=True, slots=True)
class Printed:
    """Part of a container's log, as the engine sent it."""

    pieces: Sequence[bytes]
    """Frames: each is a line, or a part of a long one."""
    is_cut: bool
    """True if earlier pieces, or bytes of them, were left out."""
    is_unread: bool
    """True if the engine had more to send."""

    def text(self) -> str:
        end = f"\n{UNREAD}\n" if self.is_unread else ""
        return b"".join(self.pieces).decode(errors="replace") + end


async def read_pieces(docker: aiodocker.Docker, container: str, most: int, **parameters: Any) -> Printed:
    """Read the last `most` bytes or so that a container has printed. The caller limits the time.

    Args:
        parameters: Those of the engine's "Get container logs": `tail`, `since`, `timestamps`.
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
    """Yield the output as it arrives, and whether it begins a frame."""
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


NANO = 10**9

PIECES = 10**6
"""Limit on the pieces of one moment: more than any engine has."""

_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
"""A timestamp in RFC 3339; Docker writes nine digits and Z, Podman an offset."""


def since(after: int) -> str:
    """Return the engine's parameter `since`; it includes the pieces of that very moment."""
    moment = after // PIECES
    return f"{moment // NANO}.{moment % NANO:09}"


def part_of(
    printed: Sequence[bytes], lines: int, after: int, most: int = LOG_BYTES, *, is_cut: bool = False
) -> LogPart:
    """Return the last lines after that place.

    Args:
        printed: The engine's pieces, each with its timestamp: at most `lines`, and one more if some are left
            out. A piece without a timestamp is the rest of the one before.
        is_cut: True if earlier pieces were left out.
    """
    cut = is_cut or sum(_TIME.match(piece) is not None for piece in printed) > lines
    # It is unknown which pieces were left out, so none counts as returned before.
    before, given_before = (after // PIECES, 0) if cut else divmod(after, PIECES)
    moment, count = after // PIECES, 0
    found: list[list[bytes]] = []
    taken = is_open = False
    for piece in printed:
        if (time := _TIME.match(piece)) is not None:
            at = _nanoseconds(time)
            moment, count = (moment, count + (at == moment)) if at <= moment else (at, 1)
            taken = at > before or (at == before and count > given_before)
            piece = piece[time.end() :]
        if not taken:
            continue
        # A line of more than 16 KiB comes in several pieces; only its last one ends with a line end.
        if is_open:
            found[-1].append(piece)
        else:
            found.append([piece])
        is_open = not piece.endswith(b"\n")
    # An engine may split a character.
    whole = [b"".join(pieces).removesuffix(b"\n").decode(errors="replace") for pieces in found]
    given = _within(whole[-lines:], most)
    skipped = 0 if len(given) == len(whole) and not cut else None
    return LogPart(tuple(given), moment * PIECES + min(count, PIECES - 1), skipped)


def _within(lines: Sequence[str], most: int) -> Sequence[str]:
    """Return the last lines that fit into `most` bytes; of a single longer line its end."""
    room = most
    for index in range(len(lines) - 1, -1, -1):
        room -= len(lines[index].encode()) + 1
        if room < 0:
            rest = lines[index + 1 :]
            return rest or [lines[index].encode()[-most:].decode(errors="ignore")]
    return lines


def _nanoseconds(time: re.Match[bytes]) -> int:
    zone = b"+00:00" if time[3] == b"Z" else time[3]
    seconds = int(datetime.fromisoformat((time[1] + zone).decode()).timestamp())
    return seconds * NANO + int((time[2] or b"0").ljust(9, b"0"))
