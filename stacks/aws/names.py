"""Names that AWS is given, and stand-ins for what it makes."""

from __future__ import annotations

import re

from stacks.deployment import Environment
from stacks.errors import ConfigError

CLOUD = "aws"

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
