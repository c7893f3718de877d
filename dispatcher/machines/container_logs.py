"""Parts of a container's log, which its engine keeps with the time of each line.

A place in the log is the time of its last line, in nanoseconds since 1970: engines find lines by nothing
else. Stdout and stderr are two pipes: of two lines that an engine takes from them in the same nanosecond, a
follower may miss the second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from dispatcher.machines.provider import LOG_BYTES, LogPart

NANO = 10**9

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
"""RFC 3339, which Docker writes with nine digits and Z, and Podman with an offset."""


def since(after: int) -> str:
    """Return the engine's parameter of this name: lines of that moment come too."""
    return f"{after // NANO}.{after % NANO:09}"


def part_of(printed: Sequence[str], lines: int, after: int) -> LogPart:
    """Return the last lines that came after that moment.

    Args:
        printed: The engine's pieces, each with its time before it. One without is the rest of a piece.
    """
    # A line of more than 16 KiB comes in several pieces; only its last one ends with a line end.
    found: list[list[str]] = []
    last, open_line, taken = after, False, False
    for piece in printed:
        if (time := _TIME.match(piece)) is not None:
            moment = _nanoseconds(time)
            taken = moment > after
            last, piece = max(last, moment), piece[time.end() :]
        if not taken:
            continue
        if open_line:
            found[-1].append(piece)
        else:
            found.append([piece])
        open_line = not piece.endswith("\n")
    whole = ["".join(pieces).removesuffix("\n") for pieces in found]
    given = _within(whole[-lines:])
    return LogPart(tuple(given), last, 0 if len(given) == len(whole) else None)


def _within(lines: Sequence[str]) -> Sequence[str]:
    """Return the last lines that `LOG_BYTES` has room for; of a single longer one its end."""
    room = LOG_BYTES
    for index in range(len(lines) - 1, -1, -1):
        room -= len(lines[index].encode()) + 1
        if room < 0:
            rest = lines[index + 1 :]
            return rest or [lines[index].encode()[-LOG_BYTES:].decode(errors="replace")]
    return lines


def _nanoseconds(time: re.Match[str]) -> int:
    zone = "+00:00" if time[3] == "Z" else time[3]
    seconds = int(datetime.fromisoformat(time[1] + zone).timestamp())
    return seconds * NANO + int((time[2] or "0").ljust(9, "0"))
