"""The parts of a process's log, from the files that `bot.output` has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bot.output import BEFORE, CUT, HEAD, NEWEST, SEGMENT_BYTES, Output
from dispatcher.machines.process.logs import read_log
from dispatcher.machines.provider import LOG_PIECE_BYTES, LogPart

MOST = 4096
LINE = 100


def numbered(first: int, last: int) -> bytes:
    """Lines of `LINE` bytes each, so that a place in the log is a number of a line."""
    return b"".join(f"{number:0{LINE - 1}}\n".encode() for number in range(first, last))


def numbers(part: LogPart | None) -> list[int]:
    assert part is not None
    return [int(line) for line in part.lines]


def test_last_lines_are_given_with_what_was_before_them(tmp_path: Path) -> None:
    Output(tmp_path).write(numbered(0, 100))
    part = read_log(tmp_path, 3, MOST)
    assert (numbers(part), part and part.next, part and part.skipped) == ([97, 98, 99], 100 * LINE, 97 * LINE)


def test_part_begins_with_a_whole_line_when_it_is_cut_by_its_size(tmp_path: Path) -> None:
    Output(tmp_path).write(numbered(0, 100))
    part = read_log(tmp_path, 1000, 5 * LINE + 50)
    assert (numbers(part), part and part.skipped) == ([95, 96, 97, 98, 99], 95 * LINE)


@pytest.mark.parametrize("segments", [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 7.25])
def test_follower_misses_nothing_and_reads_nothing_twice_over_rotations(
    tmp_path: Path, segments: float
) -> None:
    """It reads twice per MiB, so that nothing of what is between two reads is cut."""
    output, place, seen, written = Output(tmp_path), 0, [], 0
    step = SEGMENT_BYTES // 2 // LINE
    for first in range(0, int(segments * SEGMENT_BYTES) // LINE, step):
        output.write(numbered(first, first + step))
        written += step
        part = read_log(tmp_path, 10**6, 10 * SEGMENT_BYTES, place)
        assert part is not None
        assert part.skipped == 0
        seen += numbers(part)
        place = part.next
    assert seen == list(range(written))
    assert place == written * LINE


@pytest.mark.parametrize("written", [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 7.25])
def test_lines_and_skipped_bytes_add_up_to_all_that_was_printed(tmp_path: Path, written: float) -> None:
    count = int(written * SEGMENT_BYTES) // LINE
    Output(tmp_path).write(numbered(0, count))
    part = read_log(tmp_path, 10**6, 10 * SEGMENT_BYTES, 0)
    found = numbers(part)
    assert part is not None
    assert part.skipped is not None
    assert found == list(range(count - len(found), count))
    assert part.skipped + len(found) * LINE == part.next == count * LINE
    # What `bot.output` says about the cut is no line of the bot's.
    assert len(found) * LINE <= 3 * SEGMENT_BYTES


def test_unfinished_line_waits_for_its_end_or_the_machines(tmp_path: Path) -> None:
    output = Output(tmp_path)
    output.write(b"whole\nhalf")
    assert read_log(tmp_path, 10, MOST) == LogPart(("whole",), 6)
    assert read_log(tmp_path, 10, MOST, 6) == LogPart((), 6)
    assert read_log(tmp_path, 10, MOST, 6, ended=True) == LogPart(("half",), 10)
    output.write(b" and half\n")
    assert read_log(tmp_path, 10, MOST, 6) == LogPart(("half and half",), 20)


def test_line_without_end_is_given_in_pieces(tmp_path: Path) -> None:
    output, place = Output(tmp_path), 0
    output.write(b"x" * (LOG_PIECE_BYTES - 1))
    assert read_log(tmp_path, 10, 10 * LOG_PIECE_BYTES, place) == LogPart((), 0)
    output.write(b"x")
    assert read_log(tmp_path, 10, 10 * LOG_PIECE_BYTES) == LogPart(("x" * LOG_PIECE_BYTES,), LOG_PIECE_BYTES)


def test_place_beyond_the_end_counts_as_the_beginning(tmp_path: Path) -> None:
    Output(tmp_path).write(b"line\n")
    assert read_log(tmp_path, 10, MOST, 10**18) == LogPart(("line",), 5)


def test_log_is_none_without_a_file_and_empty_with_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path, 10, MOST) is None
    Output(tmp_path)
    assert read_log(tmp_path, 10, MOST) == LogPart((), 0)


@pytest.mark.parametrize("name", [NEWEST, BEFORE, HEAD])
@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "forged", "removed", "cut short"])
def test_files_that_the_bot_has_spoiled_are_read_to_a_bound(tmp_path: Path, name: str, kind: str) -> None:
    Output(tmp_path).write(numbered(0, int(3.5 * SEGMENT_BYTES) // LINE))
    file = tmp_path / name
    if kind == "cut short":
        os.truncate(file, 10)
    else:
        file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    elif kind == "directory":
        file.mkdir()
    elif kind == "forged":
        file.write_bytes((CUT % (10**18 - 1)).encode())
    for after in (None, 0, SEGMENT_BYTES, 3 * SEGMENT_BYTES, 10**18):
        part = read_log(tmp_path, 1000, MOST, after)
        assert part is not None
        assert sum(map(len, part.lines)) <= MOST
