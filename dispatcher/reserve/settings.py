"""An agent's `reserve` in the config: one policy, and the bounds that hold for every policy."""

from __future__ import annotations

import zoneinfo
from datetime import time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dispatcher.fields import Allowed, ConfigModel

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
POLICIES = ("fixed", "percent", "schedule", "predictive")

DEFAULT_TARGET = 0.993
"""Default target hit rate. Measured on the calls of a bank: docs/capacity.md."""


def known_zone(name: str) -> str:
    """Return the name of a time zone. Raises ValueError if there is none of this name."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"{name!r} is refused; allowed: a time zone of the IANA database, such as Europe/Berlin"
        ) from None
    return name


TimeZone = Annotated[
    str, AfterValidator(known_zone), Allowed("a time zone of the IANA database, such as UTC")
]
Machines = Annotated[int, Field(ge=0, le=10_000)]


class ScheduleWindow(ConfigModel):
    """A part of the week with its own number of machines."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = WEEKDAYS
    """Days on which the window begins."""
    start: time = time(0, 0)
    """Local time at which the window begins."""
    end: time = time(0, 0)
    """Local time at which the window ends: on the next day if it is not later than `start`."""
    machines: Machines
    """Machines that wait in this window."""

    @model_validator(mode="after")
    def _local(self) -> Self:
        for name in ("start", "end"):
            if getattr(self, name).tzinfo is not None:
                raise ValueError(f"{name}: an offset is refused; allowed: a local time, such as 08:00")
        return self


class PredictiveSettings(ConfigModel):
    """The policy that learns the agent's own traffic."""

    target: float = Field(default=DEFAULT_TARGET, ge=0.5, le=0.9999)
    """Share of all sessions that should find a waiting machine. Where calls are rare and a machine would
    wait long, fewer do; the busy hours make up for it."""


class ReserveSettings(ConfigModel):
    """Machines that wait for sessions: exactly one of `fixed`, `percent`, `schedule`, `predictive`."""

    fixed: Machines | None = None
    """This many machines at all times."""
    percent: float | None = Field(default=None, gt=0, le=1000)
    """Machines per hundred live sessions, rounded up."""
    schedule: tuple[ScheduleWindow, ...] | None = Field(default=None, min_length=1, max_length=200)
    """Windows of the week. Where several apply the largest counts, where none does, `min`."""
    predictive: PredictiveSettings | None = None
    """Learn from the agent's own arrivals how many machines the next minutes need."""
    time_zone: TimeZone = "UTC"
    """Time zone of the windows, and of the days and hours that `predictive` learns."""
    min: Machines = 0
    """Lower bound, also when no call is expected."""
    max: Machines = 1000
    """Upper bound, also in a flash crowd."""
    max_age_seconds: float = Field(default=3600.0, ge=60, le=86_400)
    """Time after which a machine that still waits is replaced."""
    budget: float | None = Field(default=None, gt=0, le=10_000_000)
    """USD per calendar month for waiting machines. The reserve shrinks so that the budget lasts, and is
    empty once it is spent."""

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        given = [name for name in POLICIES if getattr(self, name) is not None]
        if len(given) != 1:
            named = ", ".join(given) or "none"
            raise ValueError(f"policy: {named} is refused; allowed: exactly one of {', '.join(POLICIES)}")
        if self.min > self.max:
            raise ValueError(f"min: {self.min} is refused; allowed: at most max ({self.max})")
        return self

    @property
    def policy(self) -> str:
        """Name of the one policy that is set."""
        return next(name for name in POLICIES if getattr(self, name) is not None)
