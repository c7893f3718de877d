"""A line for what takes over a second, and not a word about the rest."""

from __future__ import annotations

import io
import time

import pytest

from stacks.progress import duration, step
from tests.patience import PATIENCE


class Shown(io.StringIO):
    """Lets a test wait until the first line is written."""

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_is_quick_is_not_shown() -> None:
    stream = io.StringIO()
    with step("quick", stream):
        pass
    assert stream.getvalue() == ""


def test_a_log_gets_whole_lines() -> None:
    stream, times = Shown(), [100.0]
    with step("slow", stream, lambda: times[-1]) as running:
        running.detail = "3 of 5"
        times.append(101.2)
        stream.wait()
        times.append(109.4)
    assert stream.getvalue().splitlines() == ["slow … 1.2 s (3 of 5)", "slow: done in 9.4 s"]


def test_a_failure_is_said() -> None:
    stream = Shown()

    def fail() -> None:
        with step("slow", stream):
            stream.wait()
            raise ValueError("oh")

    with pytest.raises(ValueError, match="oh"):
        fail()
    assert stream.getvalue().splitlines()[-1].startswith("slow: failed after ")


class Terminal(Shown):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_the_oldest_step_when_two_run() -> None:
    stream = Terminal()
    with step("older", stream):
        stream.wait()
        with step("newer", stream) as newer:
            newer.show()
    text = stream.getvalue()
    assert "newer …" not in text
    assert "newer: done in " in text
    assert text.splitlines()[-1].split("\x1b[K")[-1].startswith("older: done in ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3 min 05 s"), (60, "1 min 00 s")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
