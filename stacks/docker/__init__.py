"""The cloud `docker`: the dispatcher and its bots are containers of one Docker engine, here or over SSH."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stacks.errors import ConfigError

if TYPE_CHECKING:
    from stacks.config import StackConfig
    from stacks.deployment import Deployment, Environment


def deploy(environment: Environment) -> Deployment:
    """Describe the stack."""
    try:
        # Only here: other stacks do not have the packages of these providers.
        from stacks.docker import program
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pulumi_docker"):
            raise
        raise ConfigError(
            f"switchboard:cloud: docker needs the package {error.name}, which is not installed; "
            "`make up STACK=…` installs it, or: pip install -r requirements-docker.txt"
        ) from None
    return program.describe(environment)


def check(config: StackConfig) -> None:
    """Before an engine runs. Raises ConfigError for what only the whole config tells."""
    from stacks.docker import settings

    settings.dispatcher(config, settings.Known.none(config))
