"""Sizes of the reserve: settings, bounds, schedules, forecasts."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dispatcher.reserve.erlang import Sizer, curve, machines_for, misses
from dispatcher.reserve.policy import Bounded, Moment, policy_for
from dispatcher.reserve.settings import ReserveSettings

MONDAY = datetime(2025, 3, 3, tzinfo=UTC).timestamp()


def at(days: float = 0, hours: float = 0, *, live: int = 0, lead: float = 30, **more: float) -> Moment:
    return Moment(MONDAY + 86_400 * days + 3600 * hours, live, lead, **more)


def office(weeks: int, calls: int = 150) -> dict[int, int]:
    """Counts of weeks with the same calls in each slot from 8 to 18 on workdays."""
    return {
        int(MONDAY) + 86_400 * day + 300 * slot: calls if day % 7 < 5 and 96 <= slot < 216 else 0
        for day in range(7 * weeks)
        for slot in range(288)
    }


def watched(policy: Bounded, moment: Moment, rate: float, minutes: int = 30) -> None:
    """Let the policy see a steady rate up to the moment."""
    for back in range(minutes * 6, -1, -1):
        policy.observe(moment.now - 10 * back, round(10 * rate))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "none is refused; allowed: exactly one of fixed, percent, schedule, predictive"),
        ({"fixed": 1, "percent": 5}, "fixed, percent is refused"),
        ({"fixed": -1}, "greater than or equal to 0"),
        ({"fixed": 1, "min": 5, "max": 2}, "min: 5 is refused; allowed: at most max (2)"),
        ({"predictive": {"target": 1.2}}, "less than or equal to 0.9999"),
        ({"fixed": 1, "timeZone": "Mars/Base"}, "'Mars/Base' is refused; allowed: a time zone"),
        ({"fixed": 1, "budget": 0}, "greater than 0"),
        ({"schedule": []}, "at least 1 item"),
    ],
)
def test_settings_are_refused_with_what_is_allowed(given, words):
    with pytest.raises(ValidationError, match=words.replace("(", r"\(").replace(")", r"\)")):
        ReserveSettings.model_validate(given)


# Values of Erlang's B by the closed formula (a^n/n!) / sum(a^k/k!).
@pytest.mark.parametrize(
    ("load", "machines", "share"), [(1, 1, 0.5), (2, 2, 0.4), (10, 15, 0.036497), (20, 30, 0.008458)]
)
def test_misses_are_those_of_the_closed_formula(load, machines, share):
    assert misses(load, machines) == pytest.approx(share, abs=1e-6)


@given(st.floats(0.01, 500), st.floats(1e-4, 0.4))
def test_machines_are_the_fewest_that_keep_misses_below(load, allowed):
    found = machines_for(load, allowed)
    assert misses(load, found) <= allowed
    assert misses(load, found - 1) > allowed


@given(st.floats(0.05, 300), st.floats(0, 0.4))
def test_uncertain_curve_is_convex_and_falls(load, deviation):
    found = curve(load, deviation).misses
    falls = [before - after for before, after in pairwise(found)]
    assert all(fall > 0 for fall in falls)
    assert all(after <= before + 1e-12 for before, after in pairwise(falls))


@given(st.lists(st.floats(0.01, 5), min_size=2, max_size=30), st.sampled_from([0.9, 0.99, 0.995]))
def test_sizer_meets_the_target_over_all_sessions(rates, target):
    sizer = Sizer(target, [(rate, 0.0) for rate in rates], 30)
    missed = sum(rate * misses(rate * 30, sizer.machines(rate, 0.0)) for rate in rates) / sum(rates)
    # A grid of 2 % in the load, and rates that share a cell of 5 %.
    assert missed <= 1.35 * (1 - target)


@pytest.mark.parametrize(("live", "machines"), [(0, 0), (1, 1), (10, 1), (11, 2), (200, 20)])
def test_percent_rounds_up(live, machines):
    policy = policy_for(ReserveSettings(percent=10))
    assert policy.wanted(at(live=live)).machines == machines


@pytest.mark.parametrize(
    ("days", "hours", "machines"),
    [
        (0, 12, 5),
        (0, 7.995, 5),  # a lead time ahead
        (0, 7.9, 0),
        (0, 18, 0),
        (4, 23, 2),  # over midnight
        (5, 1, 2),
        (5, 3, 0),
        (0, 1, 0),
    ],
)
def test_schedule_applies_its_windows(days, hours, machines):
    policy = policy_for(
        ReserveSettings.model_validate(
            {
                "schedule": [
                    {
                        "days": ["mon", "tue", "wed", "thu", "fri"],
                        "start": "08:00",
                        "end": "18:00",
                        "machines": 5,
                    },
                    {"days": ["fri"], "start": "22:00", "end": "02:00", "machines": 2},
                ]
            }
        )
    )
    assert policy.wanted(at(days, hours)).machines == machines


def test_schedule_follows_the_clock_change():
    """Europe/Berlin went from UTC+1 to UTC+2 on Sunday, 30 March 2025."""
    policy = policy_for(
        ReserveSettings.model_validate(
            {
                "schedule": [{"start": "08:00", "end": "09:00", "machines": 3}],
                "timeZone": "Europe/Berlin",
            }
        )
    )
    assert policy.wanted(at(26, 7.5)).machines == 3
    assert policy.wanted(at(28, 7.5)).machines == 0
    assert policy.wanted(at(28, 6.5)).machines == 3


@given(
    st.integers(0, 50),
    st.integers(0, 20),
    st.integers(20, 40),
    st.none() | st.floats(1, 1000),
    st.floats(0, 2000),
    st.floats(0, 1),
)
def test_bounds_hold_for_any_policy(fixed, least, most, budget, spent, elapsed):
    policy = policy_for(ReserveSettings(fixed=fixed, min=least, max=most, budget=budget))
    wanted = policy.wanted(at(spent=spent, month_elapsed=elapsed))
    assert 0 <= wanted.machines <= most
    if budget is None:
        assert wanted.machines >= least
    elif spent >= budget:
        assert wanted.machines == 0
    assert wanted.reason.startswith(f"wants {wanted.machines}: fixed at {fixed}")


def test_budget_is_paced_over_the_month():
    policy = policy_for(ReserveSettings(fixed=10, budget=100))
    assert policy.wanted(at(spent=50, month_elapsed=0.5)).machines == 10
    assert policy.wanted(at(spent=80, month_elapsed=0.5)).machines == 2


def test_predictive_wants_erlangs_machines_at_a_learned_rate():
    policy = policy_for(ReserveSettings.model_validate({"predictive": {"target": 0.99}}), office(4))
    noon = at(28, 12)
    watched(policy, noon, 0.5)
    wanted = policy.wanted(noon)
    assert machines_for(15, 0.02) <= wanted.machines <= machines_for(15, 0.003)
    assert wanted.reason.startswith(f"wants {wanted.machines}: Monday 12:00, 0.50/s expected ± ")
    assert wanted.reason.endswith(", lead 30 s, target 0.99")


def test_predictive_ramps_before_the_morning():
    policy = policy_for(ReserveSettings.model_validate({"predictive": {}}), office(4))
    morning = at(28, 8)
    watched(policy, at(28, 7.95), 0)
    assert policy.wanted(at(28, 7.95)).machines == 0
    seconds_before = Moment(morning.now - 15, 0, 30)
    assert policy.wanted(seconds_before).machines > machines_for(0.5 * 15, 0.5)


@pytest.mark.parametrize("day", [5, 6])
def test_predictive_wants_none_when_the_weekday_has_no_calls(day):
    policy = policy_for(ReserveSettings.model_validate({"predictive": {}}), office(4))
    moment = at(28 + day, 12)
    watched(policy, moment, 0)
    assert policy.wanted(moment).machines == 0


def test_predictive_follows_a_holiday_within_the_hour():
    policy = policy_for(ReserveSettings.model_validate({"predictive": {}}), office(4))
    moment = at(28, 9)
    watched(policy, moment, 0, minutes=60)
    assert policy.wanted(moment).machines <= 3
    assert "like a Sunday" in policy.wanted(moment).reason


@pytest.mark.parametrize("hours", [3, 12])
def test_predictive_follows_a_flash_crowd_within_a_minute(hours):
    policy = policy_for(ReserveSettings.model_validate({"predictive": {}}), office(4))
    moment = at(28, hours)
    watched(policy, Moment(moment.now - 60, 0, 30), 0.5 if hours == 12 else 0)
    for back in range(50, -1, -10):
        policy.observe(moment.now - back, 50)
    assert policy.wanted(moment).machines >= 100


def test_predictive_follows_the_last_minutes_on_the_first_day():
    policy = policy_for(ReserveSettings.model_validate({"predictive": {"target": 0.99}}))
    assert policy.wanted(at()).machines == 0
    watched(policy, at(hours=1), 0.5, minutes=60)
    assert policy.wanted(at(hours=1)).machines >= machines_for(15, 0.02)


def test_predictive_never_exceeds_max_in_a_flash_crowd():
    policy = policy_for(ReserveSettings.model_validate({"predictive": {}, "max": 7}))
    watched(policy, at(), 100)
    assert policy.wanted(at()).machines == 7
