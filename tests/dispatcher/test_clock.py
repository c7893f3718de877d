"""The clock of the system, while somebody sets it."""

import logging
import sys
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.clock import ADOPTED_SECONDS, NANOSECONDS, SLEW, SystemClock

START = 1_700_000_000 * NANOSECONDS


class Hardware:
    """The system's clock, and the time that has passed: whole nanoseconds, so that sums are exact."""

    def __init__(self) -> None:
        self.wall, self.elapsed = START, 0

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.elapsed)

    def passes(self, seconds: float) -> None:
        nanoseconds = round(seconds * NANOSECONDS)
        self.wall += nanoseconds
        self.elapsed += nanoseconds

    def is_set(self, seconds: float) -> None:
        self.wall += round(seconds * NANOSECONDS)


def test_it_begins_with_the_time_of_the_system_and_goes_on():
    before = time.time()
    clock = SystemClock()
    assert clock.now() == pytest.approx(before, abs=60)
    assert clock.now() <= clock.now()


step = st.floats(-0.9 * ADOPTED_SECONDS, 0.9 * ADOPTED_SECONDS)
span = st.floats(0, 7200)


@given(step, st.lists(span, min_size=1))
@example(20.0, [1.0] * 10)
@example(-20.0, [1e-6] * 10)
def test_a_clock_that_is_set_by_a_little_is_followed_without_a_step(step, spans):
    hardware = Hardware()
    clock = hardware.clock()
    hardware.is_set(step)
    before = clock.now()
    for seconds in spans:
        hardware.passes(seconds)
        now = clock.now()
        # A float of today's Unix seconds is good to a quarter of a microsecond.
        assert abs(now - before - seconds) <= seconds / SLEW + 1e-6
        assert now >= before
        before = now
    hardware.passes(abs(step) * SLEW + 1)
    assert clock.now() == hardware.wall / NANOSECONDS


def test_it_is_caught_up_with_however_often_the_clock_is_asked():
    hardware = Hardware()
    clock = hardware.clock()
    hardware.is_set(0.001)
    for _ in range(20_000):
        hardware.passes(1e-6)
        clock.now()
    assert clock.now() == hardware.wall / NANOSECONDS


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (7200.0, "set forward by 7200 s"),
        (-7200.0, "set back by 7200 s"),
        (60.0, "set forward by 60 s"),
        (-60.0, "set back by 60 s"),
        (ADOPTED_SECONDS + 1, f"set forward by {ADOPTED_SECONDS + 1} s"),
    ],
)
def test_what_no_drift_explains_is_taken_over_at_once(caplog, step, said):
    hardware = Hardware()
    clock = hardware.clock()
    hardware.is_set(step)
    with caplog.at_level(logging.WARNING):
        assert clock.now() == hardware.wall / NANOSECONDS
        hardware.passes(10)
        assert clock.now() == hardware.wall / NANOSECONDS
    assert [said in record.getMessage() for record in caplog.records] == [True]


def test_many_drifts_are_no_step(caplog):
    """The difference counts that is left, not what has come together since the process's start."""
    hardware = Hardware()
    clock = hardware.clock()
    for _ in range(10):
        hardware.is_set(20)
        hardware.passes(200)
        assert clock.now() == hardware.wall / NANOSECONDS
    assert caplog.records == []


def test_the_time_is_wrong_for_no_longer_than_tokens_bear():
    assert ADOPTED_SECONDS * SLEW <= 300


@pytest.mark.parametrize("pause", [60, 3 * 3600])
def test_a_machine_that_was_paused_is_right_again(pause):
    """Neither clock went on in the pause; then the system's is set."""
    hardware = Hardware()
    clock = hardware.clock()
    hardware.passes(5)
    clock.now()
    hardware.is_set(pause)
    assert clock.now() == hardware.wall / NANOSECONDS


def test_a_machine_that_slept_is_right_at_once():
    """Here both clocks went on."""
    hardware = Hardware()
    clock = hardware.clock()
    hardware.passes(8 * 3600)
    assert clock.now() == hardware.wall / NANOSECONDS


def test_no_thread_sees_it_go_backwards():
    clock, faults = SystemClock(), []

    def ask() -> None:
        before = clock.now()
        for _ in range(20_000):
            now = clock.now()
            if now < before:
                faults.append(before - now)
            before = now

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
