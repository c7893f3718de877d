"""Arrivals of the past: counts of five minutes over eight weeks, and the typical day of each weekday.

Nothing else is known about callers. A typical day is the mean of the days of its weekday, weighted towards
the last ones, with a little of all days of its kind (workdays, weekends) scaled to its level. Days that had
far fewer or more calls than their weekday's median (holidays, outages, crowds) are left out, and a single
slot's outlier is clipped. Where calls are rare, neighbouring slots are averaged until some 400 calls stand
behind each figure (5 % of Poisson noise).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from dispatcher.reserve.calendar import SLOT, SLOTS, Calendar, weekday

DAYS = 56
UNKNOWN = -1
"""Count of a slot from before the first observation."""
OLDER_WEEK = 0.9
"""Weight of a day, relative to that of a week later."""
OF_ITS_KIND = 8.0
"""Weight of the days of the kind, in days of the weekday itself."""
ENOUGH_CALLS = 400
WIDEST = 6
"""Most slots to either side that are averaged."""


class Typical:
    """A typical day: the expected rate of each slot, and how sure it is."""

    def __init__(self, rates: list[float], deviation: float, days: float) -> None:
        self.rates = rates
        """Calls per second."""
        self.deviation = deviation
        """Relative standard deviation of a day's level."""
        self.days = days
        """Weight of the evidence, in days of this weekday."""


class Arrivals:
    """Counts per local day and slot, of eight weeks at most."""

    def __init__(self, calendar: Calendar, history: Mapping[int, int] | None = None) -> None:
        """Take over what is stored.

        Args:
            history: Start of a slot, in seconds since 1970 → calls. What is absent after the first had none.
        """
        self.calendar = calendar
        self.days: dict[int, list[int]] = {}
        if history:
            slots = sorted(history)
            # Also the days without calls in between.
            for start in range(slots[0], slots[-1] + 1, 86_400):
                self.add(start, history.get(start, 0))
            for start in slots:
                if (start - slots[0]) % 86_400:
                    self.add(start, history[start])

    def add(self, at: float, calls: int) -> None:
        """Count calls that came at an instant; time only goes on by less than a day."""
        day, slot = self.calendar.day_and_slot(at)
        counts = self.days.get(day)
        if counts is None:
            first = slot if not self.days else 0
            counts = self.days[day] = [UNKNOWN] * first + [0] * (SLOTS - first)
            for old in [one for one in self.days if one < day - DAYS]:
                del self.days[old]
        if calls:
            counts[slot] = max(counts[slot], 0) + calls

    def typical(self, day: int, of: int | None = None) -> Typical | None:
        """Return the typical day for a local day, from those before it; None on the very first day.

        Args:
            of: Take this weekday's days instead of the day's own.
        """
        wanted = weekday(day) if of is None else of
        # The first day counts if at least half of it was seen.
        known = {
            one: counts for one, counts in self.days.items() if one < day and counts[SLOTS // 2] != UNKNOWN
        }
        if not known:
            return None
        same = _without_outliers({one: at for one, at in known.items() if weekday(one) == wanted})
        kind = _without_outliers(
            {one: at for one, at in known.items() if _kind(weekday(one)) == _kind(wanted)}
        )
        if not kind:
            kind = _without_outliers(known)
        of_kind = _mean(list(kind.values()), [1.0] * len(kind))
        width = _widths(of_kind, len(kind))
        if same:
            weights = [OLDER_WEEK ** ((day - one) / 7) for one in same]
            own = _mean(_clipped(list(same.values())), weights)
            level = (sum(own) + 1) / (sum(of_kind) + 1)
            evidence = sum(weights)
            share = evidence / (evidence + OF_ITS_KIND)
            mixed = [share * a + (1 - share) * level * b for a, b in zip(own, of_kind, strict=True)]
        else:
            mixed, evidence = of_kind, 0.0
        rates = [calls / SLOT for calls in _smooth(mixed, width)]
        deviation = 0.04 + 0.2 / (1 + evidence + 0.3 * len(kind))
        return Typical(rates, deviation, evidence + 0.3 * len(kind))


def _kind(of: int) -> bool:
    return of >= 5


def _without_outliers(days: dict[int, list[int]]) -> dict[int, list[int]]:
    """Leave out the days whose calls are below a third or above thrice the median of at least three days."""
    if len(days) < 3:
        return days
    totals = {day: sum(one for one in counts if one > 0) for day, counts in days.items()}
    middle = statistics.median(totals.values())
    return {day: counts for day, counts in days.items() if middle / 3 <= totals[day] <= 3 * middle + 10}


def _mean(days: list[list[int]], weights: list[float]) -> list[float]:
    """Return the weighted mean of each slot over the days that know it; 0 where none does."""
    total = sum(weights)
    if not any(UNKNOWN in one for one in days):
        return [
            sum(map(float.__mul__, weights, map(float, slot))) / total for slot in zip(*days, strict=True)
        ]
    means = []
    for slot in zip(*days, strict=True):
        known = [(one, weight) for one, weight in zip(slot, weights, strict=True) if one != UNKNOWN]
        of = sum(weight for _, weight in known)
        means.append(sum(one * weight for one, weight in known) / of if of else 0.0)
    return means


def _clipped(days: list[list[int]]) -> list[list[int]]:
    """Clip in each slot what is far above the median of at least four days."""
    if len(days) < 4:
        return days
    slots = []
    for slot in zip(*days, strict=True):
        middle = sorted(slot)[len(slot) // 2]
        most = 2 * middle + math.isqrt(9 * max(middle, 0)) + 3
        slots.append(slot if max(slot) <= most else tuple(min(one, most) for one in slot))
    return [list(one) for one in zip(*slots, strict=True)]


def _widths(mean: list[float], days: int) -> list[int]:
    """Return for each slot how many neighbours to either side are averaged with it.

    A neighbour whose calls differ by more than chance ends it: the opening must not be blurred.
    """
    calls = [one * days for one in mean]
    widths = []
    for slot, own in enumerate(calls):
        width, total = 0, own
        while total < ENOUGH_CALLS and width < WIDEST:
            edges = [calls[at] for at in (slot - width - 1, slot + width + 1) if 0 <= at < SLOTS]
            if any((one - own) ** 2 > 9 * (one + own) + 9 for one in edges):
                break
            total += sum(edges)
            width += 1
        widths.append(width)
    return widths


def _smooth(values: list[float], widths: list[int]) -> list[float]:
    sums = [0.0]
    for one in values:
        sums.append(sums[-1] + one)
    smooth = []
    for slot, width in enumerate(widths):
        first, end = max(slot - width, 0), min(slot + width + 1, SLOTS)
        smooth.append(max((sums[end] - sums[first]) / (end - first), 0.0))
    return smooth
