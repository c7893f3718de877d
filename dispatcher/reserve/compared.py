"""The settings that the simulator compares on a trace.

`predictive` sees only the past. The others are sized with hindsight, as a person would who knows the traffic:
they get from the trace the rates that they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import time

from dispatcher.reserve.calendar import SLOT, Calendar, weekday
from dispatcher.reserve.erlang import machines_for
from dispatcher.reserve.settings import (
    WEEKDAYS,
    PredictiveSettings,
    ReserveSettings,
    ScheduleWindow,
)

PUBLISHED = "published_formula"
"""Pipecat Cloud's max(baseline, calls per second * start seconds), at the mean peak."""


def compared(
    times: Sequence[float], zone: str, lead: float, target: float, session_seconds: float
) -> dict[str, ReserveSettings]:
    """Return name → setting.

    Args:
        times: Arrivals in seconds since 1970, ascending.
        zone: Time zone of the schedule's hours.
        lead: Mean lead time in seconds.
        target: Target hit rate; the others are sized for it too.
        session_seconds: Mean length of a session.
    """
    calendar = Calendar(zone)
    hours = _mean_hours(times, calendar)
    peak = mean_peak(times, calendar)
    allowed = 1 - target
    fixed = machines_for(peak * lead, allowed)
    live = max(peak * session_seconds, 1e-9)
    return {
        "fixed": ReserveSettings(fixed=fixed, max=10_000),
        "percent": ReserveSettings(
            percent=min(max(math.ceil(100 * fixed / live), 1), 1000), min=1, max=10_000, time_zone=zone
        ),
        "schedule": ReserveSettings(schedule=_windows(hours, lead, allowed), max=10_000, time_zone=zone),
        "predictive": ReserveSettings(
            predictive=PredictiveSettings(target=target), max=10_000, time_zone=zone
        ),
        PUBLISHED: ReserveSettings(fixed=min(math.ceil(peak * lead), 10_000), max=10_000),
    }


def mean_peak(times: Sequence[float], calendar: Calendar) -> float:
    """Return the mean over the days with calls of the highest rate of five minutes, per second."""
    highest: dict[int, int] = {}
    slot, count = -1, 0
    for at in (*times, math.inf):
        found = -2 if at == math.inf else int(at // SLOT)
        if found != slot:
            if slot >= 0:
                day = calendar.day_and_slot(slot * SLOT)[0]
                highest[day] = max(highest.get(day, 0), count)
            slot, count = found, 0
        count += 1
    return sum(highest.values()) / len(highest) / SLOT if highest else 0.0


def _mean_hours(times: Sequence[float], calendar: Calendar) -> list[list[float]]:
    """Return weekday → hour → mean rate per second."""
    counts = [[0.0] * 24 for _ in WEEKDAYS]
    if not times:
        return counts
    for at in times:
        day, seconds = divmod(calendar.local(at), 86_400)
        counts[weekday(int(day))][int(seconds // 3600)] += 1
    first, last = (calendar.day_and_slot(at)[0] for at in (times[0], times[-1]))
    days = [0] * 7
    for day in range(first, last + 1):
        days[weekday(day)] += 1
    return [[calls / 3600 / max(number, 1) for calls in of] for of, number in zip(counts, days, strict=True)]


def _windows(hours: list[list[float]], lead: float, allowed: float) -> tuple[ScheduleWindow, ...]:
    """Return a window for each run of hours that need the same number of machines."""
    found: list[ScheduleWindow] = []
    for day, of in zip(WEEKDAYS, hours, strict=True):
        # An hour with fewer than four calls has no machine: it would wait for most of it.
        sizes = [machines_for(rate * lead, allowed) if rate * 3600 >= 4 else 0 for rate in of]
        begin = 0
        for hour in range(1, 25):
            if hour == 24 or sizes[hour] != sizes[begin]:
                if sizes[begin]:
                    found.append(
                        ScheduleWindow(
                            days=(day,),
                            start=time(begin),
                            end=time(hour % 24),
                            machines=min(sizes[begin], 10_000),
                        )
                    )
                begin = hour
    return tuple(found) or (ScheduleWindow(machines=0),)
