"""The price of a machine at Fly: an estimate, from Fly's price list of a date."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.machines.fly.sizes import CpuKind, guest
from dispatcher.settings import AgentSettings
from stacks.prices import THIRTY_DAYS, Price


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


def month(cpu_kind: CpuKind, cpus: int, memory_mb: int) -> float:
    """Return the USD of a machine that runs for 30 days."""
    known = FLY[cpu_kind]
    return cpus * known.cpu + (memory_mb / 1024 - cpus * known.included_gb) * known.more_gb


def price(cpu_kind: CpuKind, agent: AgentSettings) -> Price:
    """Return the price of one running machine of the agent."""
    size = guest(cpu_kind, agent.cpu, agent.memory_mb)
    usd = month(size.cpu_kind, size.cpus, size.memory_mb)
    name = f"{size.cpu_kind}-{size.cpus}x with {size.memory_mb} MB"
    return Price(usd / THIRTY_DAYS, f"{name}, by {FLY_LIST}; without media and AI services")
