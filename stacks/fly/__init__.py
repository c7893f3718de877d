"""The cloud `fly`: the dispatcher and its bots are machines at Fly.io."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispatcher.settings import AgentSettings
    from stacks.config import StackConfig
    from stacks.deployment import Deployment, Environment
    from stacks.prices import Price


def deploy(environment: Environment) -> Deployment:
    """Describe the stack."""
    # Only here: it knows the config, and the config knows this package.
    from stacks.deployment import program_of

    return program_of("fly").describe(environment)


def check(config: StackConfig, project: str, stack: str) -> None:
    """Before an engine runs. Raises ConfigError for what only the whole config tells."""
    from stacks.fly import settings

    called = settings.names(config, project, stack)
    settings.dispatcher(config, called, settings.Known.none(config))


def price(config: StackConfig, agent: AgentSettings) -> Price:
    """Return the price of one running machine of the agent."""
    from stacks.fly import prices

    return prices.price(config, agent)
