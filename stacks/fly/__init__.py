"""The cloud `fly`: the dispatcher and its bots are machines at Fly.io."""

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
        from stacks.fly import program
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pulumi_docker"):
            raise
        raise ConfigError(
            f"switchboard:cloud: fly needs the package {error.name}, which is not installed; "
            "`make up STACK=…` installs it, or: pip install -r requirements-fly.txt"
        ) from None
    return program.describe(environment)


def check(config: StackConfig, project: str, stack: str) -> None:
    """Before an engine runs. Raises ConfigError for what only the whole config tells."""
    from stacks.fly import settings

    called = settings.names(config, project, stack)
    settings.dispatcher(config, called, settings.Known.none(config))
