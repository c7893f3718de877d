"""The registry of clouds: one line each. A cloud's package is imported where a stack uses it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from dispatcher.settings import AgentSettings
    from stacks.config import StackConfig
    from stacks.deployment import Deployment, Environment
    from stacks.prices import Price

PACKAGES: Mapping[str, str] = {
    "local": "stacks.local",
    "docker": "stacks.docker",
    "fly": "stacks.fly",
}
"""Cloud → its package, which gives the functions of `Cloud`."""


class Cloud(Protocol):
    """The functions that a cloud's package has."""

    def deploy(self, environment: Environment) -> Deployment:
        """Describe the stack's resources."""
        ...

    def check(self, config: StackConfig, project: str, stack: str) -> None:
        """Refuse what can be refused before an engine runs.

        Raises:
            ConfigError: The config as a whole cannot be deployed.
        """
        ...

    def price(self, config: StackConfig, agent: AgentSettings) -> Price:
        """Return the price of one running machine of the agent."""
        ...


def load(cloud: str) -> Cloud:
    """Import a cloud's package."""
    return cast(Cloud, importlib.import_module(PACKAGES[cloud]))
