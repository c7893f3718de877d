"""Policies for the size of a reserve, machines that wait or are on their way: pure, the time passed in.

A policy is asked on a tick, every few seconds. It returns a size for the reserve: machines that wait and
those that start for it, together. Between ticks each claimed machine is replaced at once.

- `fixed`: a number.
- `percent`: a share of the live sessions, rounded up.
- `schedule`: windows of the week.
- `predictive`: the rate of the next lead time (`forecast`), turned into machines by Erlang's formula
  (`erlang`). It looks a lead time and a tick ahead, so that the machines of the morning are ready before it
  is.

The published ways compare like this: Pipecat Cloud's max(baseline, rate * start seconds) has no margin for
chance; Agones' buffer policy (a constant, or a percentage of what is allocated) is `fixed` and `percent`;
"Intelligent Pooling" (Microsoft, VLDB 2022) forecasts demand and chooses the pool with the fewest idle
seconds for a hit rate, as `predictive` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from dispatcher.reserve.arrivals import Arrivals
from dispatcher.reserve.calendar import Calendar, weekday
from dispatcher.reserve.erlang import Sizer
from dispatcher.reserve.forecast import Forecast, Rate
from dispatcher.reserve.settings import WEEKDAYS, ReserveSettings, ScheduleWindow

TICK = 10.0
"""Default seconds between two decisions."""
PLANNED = 7 * 86_400.0
"""Seconds after which the target is spread over the expected week anew."""
LEAD_CHANGE = 0.1
"""Relative change of the lead time at which the target is spread anew."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Facts that a decision is made of."""

    now: float
    """Seconds since 1970."""
    live: int
    """Live sessions of the agent."""
    lead: float
    """Mean seconds from the order of a machine until it waits, as measured."""
    spent: float = 0.0
    """USD that waiting machines have cost in this calendar month."""
    month_elapsed: float = 0.0
    """Share of the calendar month that is over."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A size of the reserve, and why."""

    machines: int
    """Machines that wait or start, together."""
    why: Callable[[], str]

    @property
    def reason(self) -> str:
        """Return the reason as a person reads it: `wants 7: Monday 10:05, 0.31/s expected ± 0.06, …`."""
        return f"wants {self.machines}: {self.why()}"


class Policy(Protocol):
    """Decides the size of a reserve, without its bounds."""

    def observe(self, now: float, calls: int) -> None:
        """Take in the sessions that were asked for since the previous observation, hits and misses alike."""
        ...

    def wanted(self, moment: Moment) -> Wanted:
        """Return the size for the time until the next tick."""
        ...


class Fixed:
    """A constant number of machines."""

    def __init__(self, machines: int) -> None:
        self._wanted = Wanted(machines, lambda: f"fixed at {machines}")

    def observe(self, now: float, calls: int) -> None: ...

    def wanted(self, moment: Moment) -> Wanted:
        return self._wanted


class Percent:
    """A share of the live sessions."""

    def __init__(self, percent: float) -> None:
        self._percent = percent

    def observe(self, now: float, calls: int) -> None: ...

    def wanted(self, moment: Moment) -> Wanted:
        machines = math.ceil(round(moment.live * self._percent / 100, 9))
        return Wanted(machines, lambda: f"{self._percent:g} % of {moment.live} live sessions")


class Schedule:
    """Windows of the week, in local time. A window's machines are ordered a lead time before it begins."""

    def __init__(self, windows: tuple[ScheduleWindow, ...], calendar: Calendar) -> None:
        self._calendar = calendar
        self._windows = [
            (
                frozenset(WEEKDAYS.index(day) for day in one.days),
                one.start.hour * 3600 + one.start.minute * 60 + one.start.second,
                one.end.hour * 3600 + one.end.minute * 60 + one.end.second,
                one.machines,
            )
            for one in windows
        ]

    def observe(self, now: float, calls: int) -> None: ...

    def wanted(self, moment: Moment) -> Wanted:
        machines = max(self._at(moment.now), self._at(moment.now + moment.lead))
        return Wanted(machines, lambda: f"schedule, {self._calendar.named(moment.now)}")

    def _at(self, at: float) -> int:
        day, seconds = divmod(self._calendar.local(at), 86_400)
        today = weekday(int(day))
        found = 0
        for days, start, end, machines in self._windows:
            if machines <= found:
                continue
            if start < end:
                within = today in days and start <= seconds < end
            else:
                # Over midnight: the evening of its day, or the morning after.
                within = (today in days and seconds >= start) or ((today - 1) % 7 in days and seconds < end)
            if within:
                found = machines
        return found


class Predictive:
    """The forecast's rate in machines, by Erlang's formula, for a target over all sessions."""

    def __init__(
        self, target: float, calendar: Calendar, history: Mapping[int, int] | None = None, tick: float = TICK
    ) -> None:
        """Learn from the past.

        Args:
            history: Start of a five-minute slot, in seconds since 1970 → calls.
            tick: Seconds between two decisions.
        """
        self._target = target
        self._calendar = calendar
        self._forecast = Forecast(Arrivals(calendar, history))
        self._tick = tick
        self._sizer: Sizer | None = None
        self._planned_until = -math.inf

    def observe(self, now: float, calls: int) -> None:
        self._forecast.observe(now, calls)

    def wanted(self, moment: Moment) -> Wanted:
        now, lead = moment.now, max(moment.lead, 0.1)
        sizer = self._sizer
        if sizer is None or now >= self._planned_until or abs(lead / sizer.lead - 1) > LEAD_CHANGE:
            sizer = self._plan(now, lead)
        rate = self._forecast.highest(now, lead, self._tick)
        machines = sizer.machines(rate.rate, rate.deviation)
        return Wanted(machines, lambda: self._why(now, rate, lead))

    def _plan(self, now: float, lead: float) -> Sizer:
        """Spread the target over the coming week: daily while there is little history, then weekly."""
        known = len(self._forecast.arrivals.days)
        self._planned_until = now + (86_400.0 if known < 15 else PLANNED)
        self._sizer = Sizer(self._target, self._forecast.week(now), lead)
        return self._sizer

    def _why(self, now: float, rate: Rate, lead: float) -> str:
        day = self._forecast
        kind = ", like a Sunday" if day.as_sunday else ", an unusual day" if day.unusual else ""
        return (
            f"{self._calendar.named(now)}{kind}, {_short(rate.rate)}/s expected ± "
            f"{_short(rate.rate * rate.deviation)}, lead {lead:.3g} s, target {self._target:g}"
        )


class Bounded:
    """A policy within `min`, `max` and `budget`.

    The budget is paced: while the month's spending, continued to its end, would exceed the budget, the
    reserve is scaled to what is left for the time that is left. Once the budget is spent, the reserve is
    empty: it comes before `min`.
    """

    def __init__(self, policy: Policy, settings: ReserveSettings) -> None:
        self._policy = policy
        self._settings = settings

    def observe(self, now: float, calls: int) -> None:
        self._policy.observe(now, calls)

    def wanted(self, moment: Moment) -> Wanted:
        wanted, settings = self._policy.wanted(moment), self._settings
        if wanted.machines < settings.min:
            wanted = _instead(settings.min, wanted, f"min {settings.min}")
        elif wanted.machines > settings.max:
            wanted = _instead(settings.max, wanted, f"max {settings.max}")
        if settings.budget is None:
            return wanted
        share = _share_of_budget(settings.budget, moment.spent, moment.month_elapsed)
        if share >= 1:
            return wanted
        words = f"budget {settings.budget:g} USD a month, {moment.spent:.2f} spent"
        return _instead(math.floor(wanted.machines * share), wanted, words)


def policy_for(
    settings: ReserveSettings, history: Mapping[int, int] | None = None, tick: float = TICK
) -> Bounded:
    """Return the policy of an agent's setting.

    Args:
        history: Start of a five-minute slot, in seconds since 1970 → calls; `predictive` learns from it.
        tick: Seconds between two decisions.
    """
    calendar = Calendar(settings.time_zone)
    policy: Policy
    if settings.fixed is not None:
        policy = Fixed(settings.fixed)
    elif settings.percent is not None:
        policy = Percent(settings.percent)
    elif settings.schedule is not None:
        policy = Schedule(settings.schedule, calendar)
    elif settings.predictive is not None:
        policy = Predictive(settings.predictive.target, calendar, history, tick)
    else:
        raise AssertionError("settings have exactly one policy")
    return Bounded(policy, settings)


def _instead(machines: int, wanted: Wanted, bound: str) -> Wanted:
    return Wanted(machines, lambda: f"{wanted.why()}; {bound}")


def _share_of_budget(budget: float, spent: float, elapsed: float) -> float:
    """Return the share of the wanted machines that the rest of the budget pays for.

    The first twentieth of the month is never paced: what it has spent says little about the rest.
    """
    if spent >= budget:
        return 0.0
    if elapsed < 0.05 or not spent:
        return 1.0
    ahead = spent / elapsed * (1 - elapsed)
    return min((budget - spent) / ahead, 1.0) if ahead > 0 else 1.0


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
