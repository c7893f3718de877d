"""Sizes of bots' machines. Machine types: the E2 family, its sizes, and the choice of one for an agent.

E2 is the cheapest general-purpose family, is in every region, and can be suspended ("E2 machine series" of
Compute Engine's documentation). It has no type with a whole core of its own below two vCPUs: e2-medium has
two vCPUs that may take half of a core each all the time, and a whole core each for a short while.
"""

from __future__ import annotations

from dataclasses import dataclass

SYSTEM_MB = 512
"""Memory of Container-Optimized OS with Docker's daemon and the logging agent, which a bot cannot have."""


@dataclass(frozen=True)
class MachineType:
    """A machine type: the CPU that it has all the time, and its memory."""

    name: str
    cpu: float
    memory_mb: int


E2 = (
    MachineType("e2-small", 0.5, 2048),
    MachineType("e2-medium", 1.0, 4096),
    MachineType("e2-highcpu-2", 2.0, 2048),
    MachineType("e2-standard-2", 2.0, 8192),
    MachineType("e2-highmem-2", 2.0, 16384),
    MachineType("e2-highcpu-4", 4.0, 4096),
    MachineType("e2-standard-4", 4.0, 16384),
    MachineType("e2-highmem-4", 4.0, 32768),
    MachineType("e2-highcpu-8", 8.0, 8192),
    MachineType("e2-standard-8", 8.0, 32768),
    MachineType("e2-highmem-8", 8.0, 65536),
    MachineType("e2-highcpu-16", 16.0, 16384),
    MachineType("e2-standard-16", 16.0, 65536),
    MachineType("e2-highmem-16", 16.0, 131072),
    MachineType("e2-highcpu-32", 32.0, 32768),
    MachineType("e2-standard-32", 32.0, 131072),
)
"""In the order of their prices."""

MACHINE_TYPES = tuple(one.name for one in E2)


def machine_type(cpu: float, memory_mb: int, wanted: str = "") -> MachineType:
    """Return the machine type for an agent of this size.

    Args:
        wanted: The type that the config names; empty: the cheapest that fits.

    Raises:
        ValueError: None is that large.
    """
    fit = [one for one in E2 if one.cpu >= cpu and one.memory_mb - SYSTEM_MB >= memory_mb]
    if wanted:
        fit = [one for one in fit if one.name == wanted]
    if not fit:
        largest = next(one for one in E2 if one.name == wanted) if wanted else None
        allowed = (
            f"at most {largest.cpu:g} vCPU with {largest.memory_mb - SYSTEM_MB} MB, as {wanted} has beside "
            "its system, or another machineType"
            if largest
            else f"at most {E2[-1].cpu:g} vCPU with {E2[-1].memory_mb - SYSTEM_MB} MB"
        )
        raise ValueError(f"cpu {cpu:g} with memory_mb {memory_mb} is refused; allowed: {allowed}")
    return fit[0]


LEAST_JOB_MB = 512


@dataclass(frozen=True)
class JobSize:
    """The size of a Cloud Run job's container."""

    cpu: int
    memory_mb: int


JOB_CPUS: dict[int, int] = {1: 4096, 2: 8192, 4: 16384, 6: 24576, 8: 32768}
"""vCPUs that a job may have → the most MiB with them ("Configure CPU limits", "Configure memory limits" of
Cloud Run's documentation)."""


def job_size(cpu: float, memory_mb: int) -> JobSize:
    """Return the size of an agent's job: the fewest vCPUs with its memory.

    Raises:
        ValueError: It would be too large.
    """
    for count, most in JOB_CPUS.items():
        if count >= cpu and memory_mb <= most:
            return JobSize(count, max(memory_mb, LEAST_JOB_MB))
    largest = max(JOB_CPUS)
    raise ValueError(
        f"cpu {cpu:g} with memory_mb {memory_mb} is refused; allowed: at most {largest} vCPU with "
        f"{JOB_CPUS[largest]} MB, as a Cloud Run job has, or machines: vm"
    )
