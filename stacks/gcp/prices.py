"""Prices at Google Cloud: of a bot's VM while it runs, and of what a stack costs while nobody calls.

All of us-central1, Linux, on demand, without taxes, data transfer, media and AI services. Other regions cost
up to half more. Each number has its source; `read` is the vendor's page, `quoted` a third party's copy
of it, `recalled` a number that was in no page at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stacks.prices import HOURS, Item, Rate

_E2 = "cloud.google.com/compute/vm-instance-pricing, us-central1, as of 2026-11"
E2_VCPU = Rate(0.02181159, "vCPU and hour", _E2, "recalled")
E2_GB = Rate(0.00292353, "GB and hour", _E2, "recalled")

SHARED_CORES = {"e2-small": 0.5, "e2-medium": 1.0}
"""Types of two shared vCPUs → the vCPUs that are billed."""

SPOT_SHARE = 0.4
"""Of the on-demand price: the page says 60 to 91 % off, and the price moves each month at the most."""

LEAST_SECONDS = 60
"""Billed for each VM."""

PUBLIC_IPV4 = Rate(0.005, "address and hour", "cloud.google.com/vpc/network-pricing", "recalled")
DISK_GB = Rate(
    0.10, "GB and month of pd-balanced", "cloud.google.com/compute/disks-image-pricing", "recalled"
)
NAT_VM = Rate(0.0014, "VM and hour", "cloud.google.com/nat/pricing", "recalled")
RUN_VCPU = Rate(0.000018, "vCPU and second, instance-based", "cloud.google.com/run/pricing, tier 1", "quoted")
RUN_GB = Rate(0.000002, "GiB and second, instance-based", "cloud.google.com/run/pricing, tier 1", "recalled")
SECRET = Rate(0.06, "version and month", "cloud.google.com/secret-manager/pricing", "recalled")
REGISTRY_GB = Rate(0.10, "GB and month", "cloud.google.com/artifact-registry/pricing", "recalled")
DATABASE_GB = Rate(0.17, "GB and month of SSD", "cloud.google.com/sql/pricing", "recalled")

_SQL = "cloud.google.com/sql/pricing, Enterprise, one zone, us-central1"
DATABASES: dict[str, Rate] = {
    "db-f1-micro": Rate(0.0105, "hour", _SQL, "recalled"),
    "db-g1-small": Rate(0.035, "hour", _SQL, "recalled"),
}
"""Tiers with a price of their own."""
DATABASE_VCPU = Rate(0.0413, "vCPU and hour", _SQL, "recalled")
DATABASE_MEMORY = Rate(0.0070, "GB and hour", _SQL, "recalled")


def machine_second(
    machine_type: str, cpu: float, memory_mb: int, disk_gb: int, *, spot: bool, nat: bool
) -> float:
    """Return the USD of a running VM and second, with its disk and its way out.

    Args:
        cpu: vCPUs of the type.
        memory_mb: Memory of the type.
    """
    billed = SHARED_CORES.get(machine_type, cpu)
    hour = (billed * E2_VCPU.usd + memory_mb / 1024 * E2_GB.usd) * (SPOT_SHARE if spot else 1.0)
    way_out = NAT_VM.usd if nat else PUBLIC_IPV4.usd
    return (hour + disk_gb * DISK_GB.usd / HOURS + way_out) / 3600


def job_second(cpu: int, memory_mb: int) -> float:
    """Return the USD of a running execution of a Cloud Run job and second."""
    return cpu * RUN_VCPU.usd + memory_mb / 1024 * RUN_GB.usd


@dataclass(frozen=True)
class Idle:
    """What of a stack runs without a call."""

    dispatchers: int
    cpu: int
    memory_mb: int
    secrets: int
    database: str
    """Tier of the instance; empty: none of the stack's."""
    multi_zone: bool
    storage_gb: int


def idle(stack: Idle) -> Sequence[Item]:
    """Return what a stack costs in a month without a call, line by line."""
    second = stack.cpu * RUN_VCPU.usd + stack.memory_mb / 1024 * RUN_GB.usd
    found = [
        Item(f"{stack.dispatchers} × dispatcher", stack.dispatchers * second * 3600 * HOURS, RUN_GB.sure),
        Item(f"{stack.secrets} × secret", stack.secrets * SECRET.usd, SECRET.sure),
    ]
    if stack.database:
        copies = 2 if stack.multi_zone else 1
        monthly = copies * (database_hour(stack.database) * HOURS + stack.storage_gb * DATABASE_GB.usd)
        zones = "two zones" if stack.multi_zone else "one zone"
        found.append(Item(f"{stack.database} in {zones} with {stack.storage_gb} GB", monthly, "recalled"))
    return found


def database_hour(tier: str) -> float:
    """Return the USD of an hour of Cloud SQL. A custom tier names its vCPUs and MB: `db-custom-1-3840`."""
    if tier in DATABASES:
        return DATABASES[tier].usd
    cpu, memory_mb = tier.removeprefix("db-custom-").split("-")
    return int(cpu) * DATABASE_VCPU.usd + int(memory_mb) / 1024 * DATABASE_MEMORY.usd
