"""The parts of a container's log, from pieces as Docker and Podman write them with their times."""

from __future__ import annotations

import pytest

from dispatcher.machines.container.logs import NANO, PIECES, part_of, since
from dispatcher.machines.provider import LOG_BYTES, LogPart

SECOND = 1_700_000_000  # 2023-11-14T22:13:20Z
AT = "2023-11-14T22:13:20.{:09}Z "


def printed(*lines: str) -> list[str]:
    """A line each nanosecond, from the second on."""
    return [f"{AT.format(number)}{line}" for number, line in enumerate(lines)]


def part_when(pieces: list[str], lines: int, after: int) -> LogPart:
    return part_of([piece.encode() for piece in pieces], lines, after)


def place(moment: int, pieces: int = 1) -> int:
    return moment * PIECES + pieces


def test_lines_are_given_without_their_times_and_the_last_time_is_the_place() -> None:
    assert part_when(printed("one\n", "two\n"), 10, 0) == LogPart(("one", "two"), place(SECOND * NANO + 1))


def test_lines_up_to_the_place_are_left_out_though_the_engine_gives_them() -> None:
    first = place(SECOND * NANO)
    assert since(first) == f"{SECOND}.000000000"
    assert part_when(printed("one\n", "two\n"), 10, first) == LogPart(("two",), place(SECOND * NANO + 1))
    assert part_when(printed("one\n"), 10, first) == LogPart((), first)
    assert part_when([], 10, first).lines == ()


def test_lines_of_one_moment_come_once_each() -> None:
    """Podman tells times in seconds: what is printed in one second comes with one time."""
    lines = [f"2023-11-14T22:13:20Z {number}\n" for number in range(4)]
    first = part_when(lines[:2], 10, 0)
    assert first == LogPart(("0", "1"), place(SECOND * NANO, 2))
    assert part_when(lines, 10, first.next) == LogPart(("2", "3"), place(SECOND * NANO, 4))
    later = [*lines, "2023-11-14T22:13:21Z 4\n"]
    assert part_when(later, 10, first.next) == LogPart(("2", "3", "4"), place((SECOND + 1) * NANO))


def test_log_line_is_repeated_when_the_engine_left_out_some_of_its_moment() -> None:
    lines = [f"2023-11-14T22:13:20Z {number}\n" for number in range(9)]
    # Of nine, of which two were given, it tells the last three.
    assert part_when(lines[-3:], 2, place(SECOND * NANO, 2)).lines == ("7", "8")
    assert part_when(lines[-3:], 2, place(SECOND * NANO, 2)).skipped is None


def test_line_of_several_pieces_is_one_line() -> None:
    """Docker splits at 16 KiB, and writes the time before each piece."""
    pieces = [*printed("x" * 16384, "y\n", "next\n"), "rest of a piece without its time\n"]
    lines = ("x" * 16384 + "y", "next", "rest of a piece without its time")
    assert part_when(pieces, 10, 0) == LogPart(lines, place(SECOND * NANO + 2))


@pytest.mark.parametrize("time", ["2023-11-14T22:13:20.5Z", "2023-11-14T23:13:20.500000000+01:00"])
def test_times_have_few_digits_and_offsets_too(time: str) -> None:
    assert part_when([f"{time} line\n"], 10, 0).next == place(SECOND * NANO + 500_000_000)


def test_more_lines_than_asked_for_are_skipped_uncounted() -> None:
    assert part_when(printed("one\n", "two\n", "three\n"), 2, 0).skipped is None
    assert part_when(printed("one\n", "two\n"), 2, 0).skipped == 0


def test_part_is_bounded() -> None:
    long = "z" * (LOG_BYTES // 2) + "\n"
    part = part_when(printed(long, long, "last\n"), 10, 0)
    assert (len(part.lines), part.lines[-1], part.skipped) == (2, "last", None)
    one = part_when(printed("w" * (2 * LOG_BYTES) + "\n"), 10, 0)
    assert (len(one.lines), len(one.lines[0])) == (1, LOG_BYTES)
