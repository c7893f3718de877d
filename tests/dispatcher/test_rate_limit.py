"""The token bucket, as a value."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.rate_limit import Rate, TokenBucket

EPSILON = 1e-6

rates = st.builds(Rate, st.floats(0.1, 100), st.integers(1, 50))
asks = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 30)), max_size=60)


def turns(bucket: TokenBucket, asked: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """When each ask (so long after the one before, with that patience) was made, and its turn came."""
    now, given = 0.0, []
    for pause, patience in asked:
        now += pause
        bucket, wait, taken = bucket.reserve(now, patience)
        assert taken == (wait <= patience)
        assert wait >= 0
        if taken:
            given.append((now, now + wait))
    return given


@pytest.mark.parametrize("per_second", [0.3, 3, 5, 7])
def test_a_burst_is_whole_at_the_times_of_today(per_second):
    bucket = TokenBucket(Rate(per_second, 100))
    taken = []
    for _ in range(101):
        bucket, _, took = bucket.reserve(1_790_000_000.123, 0)
        taken.append(took)
    assert taken == [True] * 100 + [False]


@given(rates, asks)
def test_no_window_of_time_has_more_turns_than_the_rate_allows(rate, asked):
    at = [turn for _, turn in turns(TokenBucket(rate), asked)]
    for first in range(len(at)):
        for last in range(first, len(at)):
            allowed = rate.burst + (at[last] - at[first]) * rate.per_second
            assert last - first + 1 <= allowed + EPSILON


@given(rates, asks)
def test_turns_come_in_the_order_in_which_they_were_asked_for(rate, asked):
    at = [turn for _, turn in turns(TokenBucket(rate), asked)]
    assert all(later >= turn - EPSILON for turn, later in pairwise(at))


@given(rates, asks)
def test_the_wait_that_is_told_is_the_wait_that_comes(rate, asked):
    bucket, now = TokenBucket(rate), 0.0
    for pause, patience in asked:
        now += pause
        told = bucket.wait(now)
        bucket, wait, _ = bucket.reserve(now, patience)
        assert wait == told


@given(rates, st.floats(0, 1000))
def test_after_a_rest_a_whole_burst_goes_out_at_once_and_not_one_more(rate, now):
    bucket = TokenBucket(rate)
    for _ in range(rate.burst):
        bucket, wait, taken = bucket.reserve(now, EPSILON)
        assert taken
        assert wait <= EPSILON
    _, wait, _ = bucket.reserve(now, 0)
    assert wait == pytest.approx(1 / rate.per_second)


@given(rates, st.floats(0, 10), st.floats(0, 10))
def test_who_does_not_take_a_turn_costs_nobody_one(rate, now, patience):
    bucket = TokenBucket(rate, full_at=now + 1000)
    after, _, taken = bucket.reserve(now, patience)
    assert not taken
    assert after == bucket


@given(st.one_of(st.none(), rates), asks, st.floats(0, 50))
def test_nobody_gets_through_while_it_is_held(rate, asked, until):
    assert all(turn >= until - EPSILON for _, turn in turns(TokenBucket(rate).hold(0, until), asked))


def test_a_shorter_hold_does_not_shorten_a_longer_one():
    assert TokenBucket().hold(0, 20).hold(0, 10).reserve(0, 100)[1] == 20


def test_without_a_rate_nobody_waits():
    assert turns(TokenBucket(), [(0.0, 0.0)] * 100) == [(0.0, 0.0)] * 100


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_rate_that_lets_nobody_through_is_refused(per_second, burst):
    with pytest.raises(ValueError, match="a rate needs"):
        Rate(per_second, burst)
