"""The sizes of Fargate tasks, and the smallest one that holds what an agent wants.

From the ECS developer guide, "Task size": each number of CPU units goes with some amounts of memory only.
What lies between is rounded up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CPU_UNITS = 1024
"""CPU units of one vCPU."""


@dataclass(frozen=True, slots=True)
class FargateSize:
    """A task's size as a task definition has it."""

    cpu: int
    """CPU units."""
    memory_mb: int
    """MiB."""


@dataclass(frozen=True, slots=True)
class _Row:
    cpu: int
    least_mb: int
    most_mb: int
    step_mb: int


_ROWS = (
    _Row(256, 512, 512, 512),
    _Row(256, 1024, 2048, 1024),
    _Row(512, 1024, 4096, 1024),
    _Row(1024, 2048, 8192, 1024),
    _Row(2048, 4096, 16384, 1024),
    _Row(4096, 8192, 30720, 1024),
    _Row(8192, 16384, 61440, 4096),
    _Row(16384, 32768, 122880, 8192),
)
"""In the order of their price: less CPU with more memory costs less than more CPU."""


def fargate_size(cpu: float, memory_mb: int) -> FargateSize:
    """Return the smallest size with at least these vCPUs and this memory (MiB).

    Raises:
        ValueError: Fargate has none that large.
    """
    for row in _ROWS:
        if row.cpu >= cpu * CPU_UNITS and row.most_mb >= memory_mb:
            steps = math.ceil(max(0, memory_mb - row.least_mb) / row.step_mb)
            return FargateSize(row.cpu, row.least_mb + steps * row.step_mb)
    largest = _ROWS[-1]
    raise ValueError(
        f"cpu {cpu:g} with memory_mb {memory_mb} is more than Fargate has; "
        f"allowed: up to {largest.cpu // CPU_UNITS} vCPUs and {largest.most_mb} MiB"
    )
