"""Parts of a container's log, which its engine keeps with the time of each line.

A place in the log is the time of its last piece and how many pieces of that time there were: engines find
lines by their time alone, and Podman tells it in seconds. A piece that an engine writes with an earlier time
than one before it, as of stdout and stderr in the same microsecond, may be missed by who follows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from dispatcher.machines.provider import LOG_BYTES, LogPart

NANO = 10**9

PIECES = 10**6
"""More than an engine tells of one moment."""

_TIME = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
"""RFC 3339, which Docker writes with nine digits and Z, and Podman with an offset."""


def since(after: int) -> str:
    """Return the engine's parameter of this name: pieces of that moment come too."""
    moment = after // PIECES
    return f"{moment // NANO}.{moment % NANO:09}"


def part_of(
    printed: Sequence[bytes], lines: int, after: int, most: int = LOG_BYTES, *, is_cut: bool = False
) -> LogPart:
    """Return the last lines that came after that place.

    Args:
        printed: The engine's pieces, each with its time before it: at most `lines`, and one more that tells
            that some are left out. One without a time is the rest of a piece.
        is_cut: Pieces before these were left out.
    """
    cut = is_cut or sum(_TIME.match(piece) is not None for piece in printed) > lines
    # Of pieces that were left out nobody knows which they were: then none counts as given before.
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
    # An engine may cut a character in two.
    whole = [b"".join(pieces).removesuffix(b"\n").decode(errors="replace") for pieces in found]
    given = _within(whole[-lines:], most)
    skipped = 0 if len(given) == len(whole) and not cut else None
    return LogPart(tuple(given), moment * PIECES + min(count, PIECES - 1), skipped)


def _within(lines: Sequence[str], most: int) -> Sequence[str]:
    """Return the last lines that `most` bytes have room for; of a single longer one its end."""
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
