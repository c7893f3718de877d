"""The circuit breaker, as a value."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.machines.breaker import (
    FAILURES,
    LONGEST_OPEN_SECONDS,
    OPEN_SECONDS,
    PROBE_SECONDS,
    Breaker,
)


def failing(times: int, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        breaker = breaker.failed(now)
    return breaker


def admitted(breaker: Breaker, now: float) -> bool:
    return breaker.admit(now)[1]


def test_it_opens_after_failures_in_a_row_only():
    assert admitted(failing(FAILURES - 1), 0)
    assert not admitted(failing(FAILURES), 0)
    assert admitted(failing(FAILURES - 1).worked().failed(0), 0)


def test_calls_that_fail_after_it_opened_do_not_keep_it_open_for_longer():
    assert admitted(failing(FAILURES + 20), OPEN_SECONDS)


def test_one_probe_goes_out_and_the_others_wait_for_it():
    breaker, through = failing(FAILURES).admit(OPEN_SECONDS)
    assert through
    assert not admitted(breaker, OPEN_SECONDS)
    assert admitted(breaker.worked(), OPEN_SECONDS)


def test_a_failed_probe_opens_it_for_twice_as_long():
    probing, _ = failing(FAILURES).admit(OPEN_SECONDS)
    breaker = probing.failed(OPEN_SECONDS)
    assert not admitted(breaker, OPEN_SECONDS * 3 - 0.1)
    assert admitted(breaker, OPEN_SECONDS * 3)


def test_a_probe_that_never_comes_back_is_followed_by_another():
    breaker, _ = failing(FAILURES).admit(OPEN_SECONDS)
    assert not admitted(breaker, OPEN_SECONDS + PROBE_SECONDS - 0.1)
    assert admitted(breaker, OPEN_SECONDS + PROBE_SECONDS)


events = st.lists(st.tuples(st.floats(0, 300), st.sampled_from(["admit", "failed", "worked"])), max_size=200)


@given(events)
def test_whatever_happens_it_lets_somebody_through_again_soon(history):
    breaker, now = Breaker(), 0.0
    for pause, event in history:
        now += pause
        if event == "admit":
            breaker, _ = breaker.admit(now)
        else:
            breaker = breaker.worked() if event == "worked" else breaker.failed(now)
        assert admitted(breaker, now + max(LONGEST_OPEN_SECONDS, PROBE_SECONDS))
        if event == "worked":
            assert admitted(breaker, now)
