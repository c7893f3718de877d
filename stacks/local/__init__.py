"""The cloud `local`: the dispatcher and its bots are processes of this machine.

The engine's host of dynamic providers imports modules of this package too, and needs no program for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dispatcher.settings import AgentSettings
    from stacks.config import StackConfig
    from stacks.deployment import Deployment, Environment
    from stacks.prices import Price


def deploy(environment: Environment) -> Deployment:
    """Describe the stack."""
    from stacks.local import program

    return program.deploy(environment)


def check(config: StackConfig, project: str, stack: str) -> None:
    """Before an engine runs. Raises ConfigError for what only the whole config tells."""
    from stacks.local import program

    program.check(config)


def price(config: StackConfig, agent: AgentSettings) -> Price:
    """Return the price of one running machine of the agent."""
    from stacks.prices import OWN_MACHINE

    return OWN_MACHINE
