"""Price of an agent's machine, by its cloud and size: estimates, from price lists of a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
