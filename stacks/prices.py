"""Prices of an agent's machine and of an idle stack: estimates, from price lists of a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

DAYS = 30
"""Length of a month, in every price here."""

HOURS = DAYS * 24
THIRTY_DAYS = HOURS * 3600
"""Seconds of a month."""


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
