"""Parts of a process's log, from the files that `bot.output` keeps.

A place in the log is its offset from the beginning, including bytes that were cut: a file's offset follows
from its name, and from the newest file's first line, which says how much was cut. A bot can write these files
and so corrupt its own log; a read stays within its limit.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bot.output import BEFORE, CUT, HEAD, NEWEST, SEGMENT_BYTES
from dispatcher.machines.bot_files import open_regular
from dispatcher.machines.provider import LOG_PIECE_BYTES, LogPart

_CUT = re.compile(re.escape(CUT.encode()).replace(rb"%d", rb"(\d{1,18})"))
_LOOKS = 5
"""Attempts to open the files while they are being rotated: between two rotations a bot has to print 1 MiB."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """One file's part of the log, from `begin` to `end`; its first byte is at `offset` of the file."""

    file: int
    offset: int
    begin: int
    end: int

    def read(self, begin: int, end: int) -> bytes:
        return os.pread(self.file, end - begin, self.offset + begin - self.begin)


def read_log(
    directory: Path, lines: int, most: int, after: int | None = None, *, ended: bool = False
) -> LogPart | None:
    """Return the last lines that the machine printed, as `KeepsLogs` specifies; None without a file."""
    with contextlib.ExitStack() as opened:
        segments = _segments(directory, opened)
        if segments is None:
            return None
        end = segments[-1].end if segments else 0
        asked = after if after is not None and after <= end else 0
        begin, text = _last(segments, max(asked, end - most))
    if not text:
        return LogPart((), end, end - asked)
    if begin > asked and (cut := text.find(b"\n") + 1) < len(text):
        begin, text = begin + cut, text[cut:]
    if not ended:
        text = _finished(text)
    parts = text.removesuffix(b"\n").split(b"\n") if text else []
    given = parts[-lines:]
    skipped = begin - asked + sum(len(part) + 1 for part in parts[: len(parts) - len(given)])
    shown = tuple(part.decode(errors="replace") for part in given)
    return LogPart(shown, begin + len(text), skipped)


def _finished(text: bytes) -> bytes:
    """Cut off an unfinished last line, unless it has become too long to wait for its end."""
    whole = text.rfind(b"\n") + 1
    return text if len(text) - whole >= LOG_PIECE_BYTES else text[:whole]


def _last(segments: list[_Segment], begin: int) -> tuple[int, bytes]:
    """Return the content from `begin`, or from the end of the last gap, with its place."""
    text, place = b"", segments[-1].end if segments else 0
    for segment in reversed(segments):
        if segment.end < place or place <= begin:
            break
        first = max(begin, segment.begin)
        if first >= place:
            continue
        part = segment.read(first, place)
        if len(part) < place - first:  # the bot has truncated the file meanwhile
            break
        text, place = part + text, first
    return place, text


def _segments(directory: Path, opened: contextlib.ExitStack) -> list[_Segment] | None:
    """Open the files, oldest first; None without any."""
    head, before, newest = _open(directory, opened)
    if head is before is newest is None:
        return None
    segments: list[_Segment] = []
    begin = 0
    if newest is not None:
        found = _CUT.match(os.pread(newest, 128, 0)) if head is not None else None
        if found is not None:
            begin = int(found[1]) + 2 * SEGMENT_BYTES
        elif head is not None:
            begin = SEGMENT_BYTES if before is None else 2 * SEGMENT_BYTES
        segments.append(_segment(newest, begin, found.end() if found else 0))
    if before is not None:
        found = _CUT.match(os.pread(before, 128, 0))
        segments.insert(0, _segment(before, begin - SEGMENT_BYTES, found.end() if found else 0, begin))
    if head is not None:
        first = segments[0].begin if segments else SEGMENT_BYTES
        segments.insert(0, _segment(head, 0, 0, min(first, SEGMENT_BYTES)))
    return segments


def _segment(file: int, begin: int, offset: int, limit: int | None = None) -> _Segment:
    # Text that the bot itself appended may overlap the next file.
    begin = max(0, begin)
    end = begin + max(0, os.fstat(file).st_size - offset)
    return _Segment(file, offset, begin, end if limit is None else min(end, limit))


def _open(directory: Path, opened: contextlib.ExitStack) -> list[int | None]:
    """Open the three files of one moment: `bot.output` may be about to rotate them."""
    looks = 0
    while True:
        looks += 1
        files = [_opened(directory, name, opened) for name in (HEAD, BEFORE, NEWEST)]
        if looks == _LOOKS or _is_still(directory, files[-1]):
            return files


def _opened(directory: Path, name: str, opened: contextlib.ExitStack) -> int | None:
    try:
        file = open_regular(directory, name)
    except FileNotFoundError:
        return None
    if file is not None:
        opened.callback(os.close, file)
    return file


def _is_still(directory: Path, newest: int | None) -> bool:
    try:
        found = os.stat(directory / NEWEST, follow_symlinks=False)
    except OSError:
        return newest is None
    return newest is None or os.path.samestat(found, os.fstat(newest))
