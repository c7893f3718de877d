"""The sizes of Fly's machines, and the smallest that fits an agent.

From Fly's guide "Machine sizing": 256 to 2048 MiB for each shared CPU, in steps of 256, and 2048 to 8192 MiB
for each performance CPU, in steps of 2048. The numbers of CPUs are those of the presets on Fly's pricing page
(shared-cpu-1x to 8x, performance-1x to 16x). Other sizes do not exist and are rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

CpuKind = Literal["shared", "performance"]


@dataclass(frozen=True, slots=True)
class Kind:
    """The sizes of machines with one kind of CPU."""

    cpus: tuple[int, ...]
    least_mb: int
    """Memory of each CPU, in MiB, and the steps in which a machine's memory comes."""
    most_mb: int


KINDS: dict[CpuKind, Kind] = {
    "shared": Kind((1, 2, 4, 6, 8), 256, 2048),
    "performance": Kind((1, 2, 4, 6, 8, 10, 12, 14, 16), 2048, 8192),
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A machine's size."""

    cpu_kind: CpuKind
    cpus: int
    memory_mb: int


def guest(kind: CpuKind, cpu: float, memory_mb: int) -> Guest:
    """Return the smallest machine with at least these vCPUs and this memory (MiB).

    Raises:
        ValueError: Fly has none so large.
    """
    known = KINDS[kind]
    for cpus in known.cpus:
        if cpus >= cpu and cpus * known.most_mb >= memory_mb:
            steps = math.ceil(memory_mb / known.least_mb)
            return Guest(kind, cpus, max(cpus, steps) * known.least_mb)
    most = known.cpus[-1]
    raise ValueError(
        f"cpu {cpu:g} with memoryMb {memory_mb} exceeds Fly's largest machine of kind '{kind}'; "
        f"allowed: up to {most} and {most * known.most_mb}"
    )
