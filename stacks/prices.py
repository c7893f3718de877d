"""Prices of an agent's machine and of an idle stack: estimates, from price lists of a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

THIRTY_DAYS = 30 * 24 * 3600


@dataclass(frozen=True)
class Price:
    """Price of a running machine."""

    per_second: float
    """USD."""
    of: str
    """What it is, where, and when the list was read."""

    def shown(self) -> dict[str, Any]:
        """As the stack's output `prices` has it, for each agent."""
        return {"usdPerSecond": self.per_second, "of": self.of}

    @classmethod
    def from_shown(cls, shown: Mapping[str, Any]) -> Price:
        return cls(shown["usdPerSecond"], shown["of"])


OWN_MACHINE = Price(0.0, "a machine of your own, which costs what it costs without sessions too")


HOURS = 30 * 24
"""Of a month of 30 days."""

Sure = Literal["read", "quoted", "recalled"]
"""On the vendor's page, in a third party's copy of it, or in no page at hand."""


@dataclass(frozen=True)
class Rate:
    """A price of a vendor's list."""

    usd: float
    per: str
    source: str
    sure: Sure


@dataclass(frozen=True)
class Item:
    """A line of what a stack costs in a month without a call."""

    what: str
    usd: float
    sure: Sure


def least_sure(*rates: Rate) -> Sure:
    """Return how sure a sum of prices is."""
    return max(rates, key=lambda one: get_args(Sure).index(one.sure)).sure
