"""The age that a machine's process reports of itself."""

import time

import psutil
import pytest

from bot.process import ProcessClock
from bot.protocol import LONGEST_MILLISECONDS, Hello, Timings, parse_from_machine

DAY = 86_400.0


def test_the_clock_counts_from_the_start_of_the_process():
    age = time.time() - psutil.Process().create_time()

    assert ProcessClock().milliseconds() == pytest.approx(age * 1000, abs=5000)


@pytest.mark.parametrize(
    ("age", "idle", "said"),
    [
        (1.0, 0.5, 1500.0),
        (1.0, 30 * DAY, LONGEST_MILLISECONDS),
        (400 * DAY, 0.5, LONGEST_MILLISECONDS),
        (-DAY, 0.5, 0.0),
    ],
    ids=["a start", "a month in the reserve", "began before its host", "begins tomorrow"],
)
def test_a_hello_is_one_that_the_dispatcher_takes_however_old_its_process_seems(age, idle, said):
    now = 1000.0
    clock = ProcessClock(age=lambda: age, monotonic=lambda: now)
    now += idle
    hello = Hello(machine_id="m-1", phase="idle", timings=Timings(connected=clock.milliseconds()))

    assert parse_from_machine(hello.model_dump_json()) == hello
    assert hello.timings.connected == said
