"""What a machine of an agent costs, by its cloud and size: estimates, from price lists of a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.machines.fly.sizes import CpuKind, guest
from dispatcher.settings import AgentSettings
from stacks.config import StackConfig

THIRTY_DAYS = 30 * 24 * 3600


@dataclass(frozen=True)
class Price:
    """What a running machine costs."""

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


@dataclass(frozen=True)
class _Size:
    cpu: float
    """USD for 30 days: a CPU with the least memory that it comes with."""
    included_gb: float
    more_gb: float
    """USD for 30 days and each GB beside that."""


# Of region iad, 2026-09-05, from fly.io/docs/about/pricing as third parties have it: performance-1x with 2, 4
# and 8 GB 31.00, 41.01 and 61.02; shared-cpu-1x with 256 MB and 2 GB 2.02 and 11.11.
FLY: dict[CpuKind, _Size] = {"performance": _Size(31.00, 2.0, 5.00), "shared": _Size(2.02, 0.25, 5.19)}
FLY_LIST = "Fly's price list for iad of 2026-09-05"


def price_of(config: StackConfig, agent: AgentSettings) -> Price:
    """Of one machine of the agent, for as long as it runs."""
    if config.cloud != "fly":
        return Price(0.0, "a machine of your own, which costs what it costs without sessions too")
    size = guest(config.fly.cpu_kind, agent.cpu, agent.memory_mb)
    known = FLY[size.cpu_kind]
    more_gb = size.memory_mb / 1024 - size.cpus * known.included_gb
    month = size.cpus * known.cpu + more_gb * known.more_gb
    name = f"{size.cpu_kind}-{size.cpus}x with {size.memory_mb} MB"
    return Price(month / THIRTY_DAYS, f"{name}, by {FLY_LIST}; without media and AI services")
