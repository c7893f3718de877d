"""Names that Google Cloud is given, and stand-ins for what it makes."""

from __future__ import annotations

import hashlib
import re

from stacks.deployment import Environment
from stacks.errors import ConfigError

CLOUD = "gcp"

LONGEST_PREFIX = 40
"""Characters. Most names have at most 63; ours end with the agent or a part's name."""

LONGEST_ACCOUNT = 30
"""Characters of a service account's id ("Create service accounts", IAM's documentation)."""

HASH_LENGTH = 6

NOT_BUILT = f"not-built-yet@sha256:{'0' * 64}"
NO_URL = "https://not-made-yet.run.app"
NO_TEMPLATE = NO_JOB = "not-made-yet"


def prefix(environment: Environment, placement: str = CLOUD) -> str:
    """Return the first part of a placement's names. Raises ConfigError if Google would not take it."""
    name = f"{environment.project}-{environment.stack}"
    name = name if placement == CLOUD else f"{name}-{placement}"
    if not re.fullmatch(rf"[a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}}", name):
        raise ConfigError(
            f"the stack's name: {name!r}, of project, stack and placement, begins the names at Google Cloud; "
            f"allowed: at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter"
        )
    return name


def account(prefix_: str, part: str) -> str:
    """Return the id of a service account; one that would be too long ends with a hash of the whole."""
    name = f"{prefix_}-{part}"
    if len(name) <= LONGEST_ACCOUNT:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]
    return f"{name[: LONGEST_ACCOUNT - HASH_LENGTH - 1].rstrip('-')}-{digest}"


def role(prefix_: str, part: str) -> str:
    """Return the id of a custom role, which has no hyphens."""
    return f"{prefix_}-{part}".replace("-", "_")


LONGEST_DEPLOYMENT = 24
"""Characters. `<deployment>-<machine id>` is a VM's name, of 63 characters at most."""


def deployment(prefix_: str) -> str:
    """Return the provider's name for a placement's VMs.

    A name with `-m-` in it would begin as another deployment's machines do: those of a stack `prod-m` as
    those of a stack `prod`, whose dispatcher's permissions would hold for them.
    """
    if len(prefix_) <= LONGEST_DEPLOYMENT and "-m-" not in f"{prefix_}-":
        return prefix_
    digest = hashlib.sha256(prefix_.encode()).hexdigest()[:HASH_LENGTH]
    plain = prefix_.replace("-m-", "-").removesuffix("-m")[: LONGEST_DEPLOYMENT - HASH_LENGTH - 1]
    return f"{plain.rstrip('-')}-{digest}"


LONGEST_JOB = 63
"""Characters of a job's name, as the provider `cloud-run-jobs` takes it."""


def job(deployment_: str, agent: str) -> str:
    """Return the name of an agent's job; one that would be too long ends with a hash of the whole."""
    name = f"{jobs(deployment_)}{agent}"
    if len(name) <= LONGEST_JOB:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]
    return f"{name[: LONGEST_JOB - HASH_LENGTH - 1].rstrip('-')}-{digest}"


def jobs(deployment_: str) -> str:
    """Return the first part of the names of a placement's jobs."""
    return f"{deployment_}-j-"


LONGEST_TEMPLATE = 54
"""Characters of a template's `name_prefix`: Terraform's provider adds at least 9 to make 63."""


def template(prefix_: str, agent: str) -> str:
    """Return the first part of the names of an agent's templates."""
    name = f"{prefix_}-{agent}-"
    if len(name) <= LONGEST_TEMPLATE:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]
    return f"{name[: LONGEST_TEMPLATE - HASH_LENGTH - 2].rstrip('-')}-{digest}-"
