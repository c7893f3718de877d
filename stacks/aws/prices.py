"""Prices at AWS: of a bot's task while it runs, and of what a stack costs while nobody calls.

All of us-east-1, Linux, on demand, without taxes, data transfer, media and AI services. Other regions cost up
to half more. Each number has its source; `read` is the vendor's page, `quoted` a third party's copy
of it, `recalled` a number that was in no page at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stacks.aws.config import Architecture
from stacks.prices import HOURS, Item, Rate, least_sure


@dataclass(frozen=True)
class FargateRates:
    vcpu_second: Rate
    gb_second: Rate


_FARGATE = "aws.amazon.com/fargate/pricing, 2026-09"
FARGATE: dict[Architecture, FargateRates] = {
    "X86_64": FargateRates(
        Rate(0.000011244, "vCPU and second", _FARGATE, "quoted"),
        Rate(0.000001235, "GB and second", _FARGATE, "quoted"),
    ),
    "ARM64": FargateRates(
        Rate(0.0000089944, "vCPU and second", _FARGATE, "quoted"),
        Rate(0.0000009889, "GB and second", _FARGATE, "quoted"),
    ),
}

SPOT_SHARE = 0.3
"""Of the on-demand price: the page says up to 70 % off, and the price moves."""

LEAST_SECONDS = 60
"""Billed for each task, from the start of its image's pull."""

_IPV4 = "AWS's price list of 2026-10-16, by github.com/ChiefGyk3D/Clouds-Against-Humanity, wiki"
_BALANCER = "cloud-horizons.com/blog/alb-the-line-item-nobody-watches, 2026-05-08"

PUBLIC_IPV4 = Rate(0.005, "address and hour", _IPV4, "quoted")
LOAD_BALANCER = Rate(0.0225, "hour", _BALANCER, "quoted")
CAPACITY_UNIT = Rate(0.008, "LCU and hour", _BALANCER, "quoted")
SECRET = Rate(0.40, "secret and month", "hivebook.wiki, AWS Secrets Manager; undated", "quoted")
INTERFACE_ENDPOINT = Rate(0.01, "endpoint, zone and hour", "aws.amazon.com/privatelink/pricing", "recalled")
REGISTRY_GB = Rate(0.10, "GB and month", "aws.amazon.com/ecr/pricing", "recalled")
DATABASE_GB = Rate(
    0.115, "GB and month", "usage.ai/blogs, RDS pricing calculator, gp3, us-east-1, 2026-06", "quoted"
)

_RDS = "aws.amazon.com/rds/postgresql/pricing, one zone"
_RDS_QUOTED = "infratally.com/articles/aws-rds-pricing-explained-2026, one zone, us-east-1"
DATABASES: dict[str, Rate] = {
    "db.t4g.micro": Rate(0.016, "hour", _RDS_QUOTED, "quoted"),
    "db.t4g.small": Rate(0.032, "hour", _RDS_QUOTED, "quoted"),
    "db.t4g.medium": Rate(0.065, "hour", _RDS_QUOTED, "quoted"),
    "db.t4g.large": Rate(0.129, "hour", _RDS, "recalled"),
    "db.m7g.large": Rate(0.168, "hour", _RDS, "recalled"),
}
"""Classes whose price is known; a second zone doubles it."""


def task_second(
    cpu_units: int, memory_mb: int, architecture: Architecture, *, spot: bool = False, public: bool = True
) -> float:
    """Return the USD of a running task and second."""
    rates = FARGATE[architecture]
    size = cpu_units / 1024 * rates.vcpu_second.usd + memory_mb / 1024 * rates.gb_second.usd
    return size * (SPOT_SHARE if spot else 1.0) + (PUBLIC_IPV4.usd / 3600 if public else 0.0)


@dataclass(frozen=True)
class Idle:
    """Parts of a stack that run without a call."""

    dispatchers: int
    cpu_units: int
    memory_mb: int
    architecture: Architecture
    zones: int
    secrets: int
    endpoints: int
    """Interface endpoints, each in every zone."""
    database: str
    """Class of the instance; empty: none of the stack's."""
    multi_zone: bool
    storage_gb: int


def idle(stack: Idle) -> Sequence[Item]:
    """Return what a stack costs in a month without a call, line by line.

    Raises:
        KeyError: The price of the database's class is not known.
    """
    hour = 3600 * task_second(stack.cpu_units, stack.memory_mb, stack.architecture)
    items = [
        Item(
            f"{stack.dispatchers} × dispatcher with its public address",
            stack.dispatchers * hour,
            least_sure(
                *(FARGATE[stack.architecture].vcpu_second, FARGATE[stack.architecture].gb_second),
                PUBLIC_IPV4,
            ),
        ),
        Item(
            "load balancer, with less than one LCU",
            LOAD_BALANCER.usd + CAPACITY_UNIT.usd,
            least_sure(LOAD_BALANCER, CAPACITY_UNIT),
        ),
        Item(
            f"{stack.zones} × public address of the load balancer",
            stack.zones * PUBLIC_IPV4.usd,
            PUBLIC_IPV4.sure,
        ),
    ]
    found = [Item(one.what, one.usd * HOURS, one.sure) for one in items]
    if stack.database:
        rate, copies = DATABASES[stack.database], 2 if stack.multi_zone else 1
        monthly = copies * (rate.usd * HOURS + stack.storage_gb * DATABASE_GB.usd)
        zones = "two zones" if stack.multi_zone else "one zone"
        found.append(
            Item(
                f"{stack.database} in {zones} with {stack.storage_gb} GB",
                monthly,
                least_sure(rate, DATABASE_GB),
            )
        )
    if stack.secrets:
        found.append(Item(f"{stack.secrets} × secret", stack.secrets * SECRET.usd, SECRET.sure))
    if stack.endpoints:
        count = stack.endpoints * stack.zones
        usd = count * INTERFACE_ENDPOINT.usd * HOURS
        found.append(Item(f"{count} × interface endpoint", usd, INTERFACE_ENDPOINT.sure))
    return found
