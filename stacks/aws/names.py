"""Names that AWS is given, and stand-ins for what it makes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stacks.deployment import Environment
from stacks.errors import ConfigError

CLOUD = "aws"

DISPATCHER = "dispatcher"
"""Last part of the dispatcher's names."""

LONGEST_PREFIX = 40
"""Characters. ECS takes 255, an alarm or a load balancer less; ours end with the agent or a part's name."""

NOT_BUILT = f"not-built-yet@sha256:{'0' * 64}"
NO_SUBNET, NO_GROUP = "subnet-00000000", "sg-00000000"
NO_URL = "https://not-made-yet.cloudfront.net"


def prefix(environment: Environment, placement: str = CLOUD) -> str:
    """Return the first part of a placement's names. Raises ConfigError if AWS would not take it."""
    name = f"{environment.project}-{environment.stack}"
    name = name if placement == CLOUD else f"{name}-{placement}"
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}}", name):
        raise ConfigError(
            f"the stack's name: {name!r}, of project, stack and placement, begins the names at AWS; "
            f"allowed: at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter"
        )
    return name


def family(prefix_: str, agent: str) -> str:
    """Return the family of an agent's task definitions."""
    return f"{prefix_}-{agent}"


def dispatcher(environment: Environment) -> str:
    """Return the name of the dispatcher's cluster, and of its task definitions' family."""
    return f"{prefix(environment)}-{DISPATCHER}"


def taken(environment: Environment, prefix_: str, region: str, agents: Iterable[str]) -> list[str]:
    """Return the names in a region that a placement takes, in words.

    Raises:
        ConfigError: One of them is the dispatcher's.
    """
    families = {family(prefix_, agent): f"agents.{agent}" for agent in agents}
    keys = {prefix_: f"placements.{DISPATCHER}", **families}
    if (host := dispatcher(environment)) in keys:
        raise ConfigError(
            f"switchboard:{keys[host]}: is refused at AWS, where {host} is the dispatcher's own name; "
            "allowed: any other name"
        )
    return [f"cluster {prefix_} in {region}", *(f"task definition {one} in {region}" for one in families)]
