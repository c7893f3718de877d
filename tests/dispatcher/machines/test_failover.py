"""The fleet's decisions on its placements' errors, as values."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.machines import failover
from dispatcher.machines.failover import Failure, Faulty, Unknown
from dispatcher.machines.provider import (
    NoCapacity,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

words = st.text("abcdef ", min_size=1)
errors = st.one_of(
    *(st.builds(kind, words) for kind in (NoCapacity, QuotaReached, Rejected, Unreachable, Faulty, Unknown)),
    st.builds(Throttled, words, st.floats(0, 3600)),
)
failures = st.lists(st.builds(Failure, st.text("xyz", min_size=1), errors), min_size=1, max_size=6)

SAID = [Rejected, Unknown, Throttled, NoCapacity, QuotaReached, Faulty, Unreachable]
"""In the order in which one is said rather than another."""


@given(failures)
def test_all_are_told_as_the_one_that_matters_most(failed):
    verdict = failover.verdict(failed)
    kinds = [type(failure.error) for failure in failed]
    first = next(kind for kind in SAID if kind in kinds)
    # To the outside it is the same whether a machine is known to be nowhere or not.
    assert type(verdict) is (Unreachable if first is Unknown else first)
    for failure in failed:
        assert f"{failure.placement}: {failure.error}" in str(verdict)


@given(failures)
def test_a_retry_is_told_to_wait_for_the_first_that_has_room(failed):
    verdict = failover.verdict(failed)
    waits = [failure.error.retry_after for failure in failed if isinstance(failure.error, Throttled)]
    if isinstance(verdict, Throttled):
        assert verdict.retry_after == min(waits)
        assert all(verdict.retry_after <= wait for wait in waits)


@given(failures, failures)
def test_no_other_placement_is_asked_where_that_could_make_a_second_machine(before, after):
    if not failover.nowhere(before):
        assert not failover.may_go_on(before)
    # What has ended the search, later errors do not open again.
    if not failover.may_go_on(before):
        assert not failover.may_go_on(before + after)
        assert isinstance(failover.verdict(before + after), (Rejected, Unreachable))


@pytest.mark.parametrize(
    ("error", "on", "nowhere"),
    [
        (NoCapacity("full"), True, True),
        (QuotaReached("10 of 10"), True, True),
        (Throttled("slow down", 5), True, True),
        (Unreachable("no answer"), True, True),
        (Faulty("a bug"), True, True),
        (Rejected("no such image"), False, True),
        (Unknown("no answer to a look-up"), False, False),
    ],
)
def test_each_error_has_its_meaning(error, on, nowhere):
    failed = [Failure("near", error)]
    assert failover.may_go_on(failed) is on
    assert failover.nowhere(failed) is nowhere


@given(st.integers(0, 10**6))
def test_pauses_grow_to_a_limit(attempt):
    pauses = [failover.pause(attempt), failover.pause(attempt + 1)]
    assert failover.FIRST_PAUSE_SECONDS <= pauses[0] <= pauses[1] <= failover.LONGEST_PAUSE_SECONDS
    assert all(later <= 2 * pause for pause, later in pairwise(pauses))
