"""The expected rate of arrivals: the typical day, corrected by the last minutes.

The correction is a level, today's calls per expected call, with a gamma prior around 1: level = (K + A) / (K
+ B), where A are the calls and B the expected ones, both halved every `HALF_LIFE` seconds (the discounted
gamma-Poisson filter: Harvey and Fernandes 1989; West and Harrison, "Bayesian Forecasting and Dynamic
Models"). K = 75 = 1/0.115²: a day, and the hour within it, differs from the typical one by some 12 %.

If the last one or five minutes are improbable under the forecast (crowd, outage, holiday), the day counts as
unusual: the filter forgets all but these minutes, and K falls to 10, so that it follows. An unusual day that
fits the Sundays better takes the typical Sunday: holidays look like Sundays. Where no calls were expected at
all, those of the last minutes are the forecast.

How far the forecast is off beyond Poisson's noise is learned from its own errors: after each slot the square
of the error, less the expected calls, is compared with their square, and averaged over some days (the method
of moments for overdispersed counts: McCullagh and Nelder, "Generalized Linear Models", 1989, 4.5).

The first day has no typical one: the rate is the mean of the last minutes.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from dispatcher.reserve.arrivals import Arrivals, Typical
from dispatcher.reserve.calendar import SLOT

SURE = 75.0
UNSURE = 10.0
HALF_LIFE = 1200.0
FIRST_DAY_HALF_LIFE = 400.0
ERRORS_KEPT = 0.5 ** (1 / 500)
"""Weight of a slot's error, relative to that of the slot after it: half after some three days of slots."""
FIRST_ERROR = 0.03
"""Relative error that is assumed before any is known, with the weight of `FIRST_ERRORS` slots."""
FIRST_ERRORS = 20
SHORT, LONG = 60.0, 300.0
"""Windows in which a change shows, in seconds."""
IMPROBABLE = 4.5
"""Standard deviations from the forecast at which the day is unusual: by chance once in some weeks of
ticks."""
CROWD = 3.5
"""Standard deviations above the forecast at which the last minutes are a crowd, which the forecast follows
at once."""
NOISE = 0.05
"""Relative deviation that a minute may have beside Poisson's."""
COMPARED = 24
"""Slots by which an unusual day is compared with Sundays: two hours."""
SUNDAY = 6


class Rate(NamedTuple):
    """Expected calls per second, with the relative standard deviation of this expectation."""

    rate: float
    deviation: float


class _Window:
    """Sums over the last seconds."""

    def __init__(self, length: float) -> None:
        self.calls = self.expected = self.seconds = 0.0
        self._length = length
        self._parts: deque[tuple[float, int, float, float]] = deque()

    def add(self, now: float, calls: int, expected: float, seconds: float) -> None:
        """Add the part that ends now, and drop those that ended before the window."""
        self._parts.append((now, calls, expected, seconds))
        self.calls += calls
        self.expected += expected
        self.seconds += seconds
        while self._parts[0][0] <= now - self._length:
            _, calls, expected, seconds = self._parts.popleft()
            self.calls -= calls
            self.expected -= expected
            self.seconds -= seconds


class Forecast:
    """Learns from arrivals, tick by tick, and says the rate of the next seconds."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.unusual = False
        self.as_sunday = False
        self._days: dict[tuple[int, bool], Typical | None] = {}
        self._day = -1
        self._slot = -1
        self._calls = self._expected = self._seconds = 0.0
        self._last: float | None = None
        self._windows = (_Window(SHORT), _Window(LONG))
        self._surge = 0.0
        self._slot_calls = self._slot_expected = 0.0
        """Calls of this slot so far, and those that were expected a tick ahead."""
        self._squares = self._errors = 0.0

    def observe(self, now: float, calls: int) -> None:
        """Take in the calls since the previous observation; the first one only sets the clock."""
        last, self._last = self._last, now
        if last is None or now <= last:
            self.arrivals.add(now, calls)
            return
        elapsed = min(now - last, LONG)
        middle = now - elapsed / 2
        day, slot = self.arrivals.calendar.day_and_slot(middle)
        if day != self._day:
            self._begin(day)
        elif slot != self._slot and self.unusual:
            self._compare_with_sundays(day, slot)
        if slot != self._slot:
            self._learn_error()
        self._slot = slot
        self.arrivals.add(middle, calls)
        typical = self._typical(day)
        base = typical.rates[slot] if typical else 0.0
        if typical:
            self._slot_calls += calls
            self._slot_expected += base * self._level(self._prior(typical)) * elapsed
        self._surge = 0.0
        self._notice(now, calls, base * elapsed, elapsed, typical)
        kept = 0.5 ** (elapsed / (HALF_LIFE if typical else FIRST_DAY_HALF_LIFE))
        self._calls = self._calls * kept + calls
        self._expected = self._expected * kept + base * elapsed
        self._seconds = self._seconds * kept + elapsed

    def highest(self, now: float, lead: float, tick: float) -> Rate:
        """Return the mean rate over the next lead time, or over the one a tick later if that is higher."""
        first = self.rate(now, now + lead)
        if (now + tick + lead) // SLOT == now // SLOT:
            return first
        return max(first, self.rate(now + tick, now + tick + lead))

    def rate(self, begin: float, end: float) -> Rate:
        """Return the mean rate between two instants of the next minutes."""
        day, seconds = divmod(self.arrivals.calendar.local(begin), 86_400)
        typical = self._typical(int(day))
        if typical is None:
            return self._of_first_day()
        slot = int(seconds // SLOT)
        length = end - begin
        left = (slot + 1) * SLOT - seconds
        if left >= length:
            base = typical.rates[slot]
        else:
            total, at = typical.rates[slot] * left, begin + left
            while at < end:
                upto = min(at + SLOT, end)
                of, index = self.arrivals.calendar.day_and_slot(at)
                found = self._typical(of)
                total += (found.rates[index] if found else 0.0) * (upto - at)
                at = upto
            base = total / length
        prior = self._prior(typical)
        error = max(self._errors / self._squares, 0.0) if self._squares else FIRST_ERROR**2
        deviation = math.sqrt(max(1 / (self._calls + prior), error))
        rate = base * self._level(prior)
        if self._surge > rate:
            return Rate(self._surge, 0.2)
        return Rate(rate, min(deviation, 0.5))

    def week(self, now: float) -> list[tuple[float, float]]:
        """Return the expected rate and deviation of each slot of the coming week; empty without history."""
        day = self.arrivals.calendar.day_and_slot(now)[0]
        found = (self.arrivals.typical(day, (day + ahead + 3) % 7) for ahead in range(7))
        return [(rate, one.deviation) for one in found if one for rate in one.rates]

    def _begin(self, day: int) -> None:
        self._day = day
        self.unusual = self.as_sunday = False
        self._days = {}

    def _typical(self, day: int, as_sunday: bool | None = None) -> Typical | None:
        key = (day, self.as_sunday if as_sunday is None else as_sunday)
        if key not in self._days:
            # Also of tomorrow, from what is known today.
            self._days[key] = self.arrivals.typical(day, SUNDAY if key[1] else None)
        return self._days[key]

    def _of_first_day(self) -> Rate:
        if not self._seconds or not self._calls:
            return Rate(0.0, 0.5)
        rate = max((self._calls + 1) / (self._seconds + FIRST_DAY_HALF_LIFE / 10), self._surge)
        return Rate(rate, min(0.08 + 1 / math.sqrt(self._calls + 1), 0.5))

    def _notice(
        self, now: float, calls: int, expected: float, elapsed: float, typical: Typical | None
    ) -> None:
        """Compare the last minutes with the forecast, and start anew if they are improbable."""
        if typical:
            level = self._level(self._prior(typical))
            per_second = 0.0
        else:
            level = 0.0
            per_second = self._calls / self._seconds if self._seconds else 0.0
        for window in self._windows:
            window.add(now, calls, expected, elapsed)
            # Sums that parts were taken from may end a little below zero.
            awaited = max(window.expected * level + window.seconds * per_second, 0.0)
            off = window.calls - awaited
            noise = math.sqrt(awaited + (NOISE * awaited) ** 2)
            if off > CROWD * noise + 1.5:
                self._surge = max(self._surge, window.calls / window.seconds)
            if abs(off) > IMPROBABLE * noise + 1.5:
                self.unusual = True
                self._calls, self._expected = window.calls - calls, window.expected - expected
                self._seconds = window.seconds - elapsed

    def _level(self, prior: float) -> float:
        return (self._calls + prior) / (self._expected + prior)

    def _learn_error(self) -> None:
        """Take in how far the slot that is over was from what was expected of it."""
        calls, expected = self._slot_calls, self._slot_expected
        self._slot_calls = self._slot_expected = 0.0
        if self.unusual or expected < 1:
            return
        if not self._squares:
            self._squares = FIRST_ERRORS * expected**2
            self._errors = self._squares * FIRST_ERROR**2
        self._squares = self._squares * ERRORS_KEPT + expected**2
        self._errors = self._errors * ERRORS_KEPT + (calls - expected) ** 2 - expected

    def _prior(self, typical: Typical) -> float:
        return UNSURE if self.unusual else SURE / (1 + 2 / (typical.days + 0.2))

    def _compare_with_sundays(self, day: int, slot: int) -> None:
        """Choose between the day's own weekday, at today's level, and the Sundays as they are."""
        sunday, own = self._typical(day, True), self._typical(day, False)
        counts = self.arrivals.days.get(day)
        if sunday is None or own is None or counts is None or slot < 2:
            return
        part = slice(max(slot - COMPARED, 0), slot)
        seen = [max(one, 0) for one in counts[part]]
        of_own = [one * SLOT for one in own.rates[part]]
        level = (sum(seen) + 1) / (sum(of_own) + 1)
        as_own = _deviance(seen, [one * level for one in of_own])
        as_sunday = _deviance(seen, [one * SLOT for one in sunday.rates[part]])
        chosen = as_sunday <= as_own + 3
        if chosen != self.as_sunday:
            self.as_sunday = chosen
            self._calls = self._expected = 0.0


def _deviance(seen: list[int], expected: list[float]) -> float:
    """Half the Poisson deviance, with a tenth of a call added where none is expected."""
    return sum(
        one * math.log(one / (of + 0.1)) - one + of if one else of
        for one, of in zip(seen, expected, strict=True)
    )
