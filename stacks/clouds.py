"""The registry of clouds: one line each. A cloud's package is imported where a stack uses it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from dispatcher.settings import AgentSettings
    from stacks.config import StackConfig
    from stacks.deployment import Deployment, Environment, PlacedBots, PlannedBots, Site
    from stacks.prices import Price

PACKAGES: Mapping[str, str] = {
    "local": "stacks.local",
    "docker": "stacks.docker",
    "fly": "stacks.fly",
}
"""Cloud → its package, which gives the functions of `Cloud`."""


class Placement(Protocol):
    """Ability of a cloud: it provisions a place for bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        """Plan the placement from the config alone. Nothing is made or asked.

        Raises:
            ConfigError: It cannot be; the text names the key, the value and what is allowed.
        """
        ...

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        """Describe its resources."""
        ...

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        """Return the price of one running machine of the agent."""
        ...


class Host(Protocol):
    """Ability of a cloud: it runs the dispatcher."""

    def site(self, environment: Environment) -> Site:
        """Return what placements must know of the host, from the config alone."""
        ...

    def check(self, environment: Environment, planned: Sequence[PlannedBots]) -> None:
        """Refuse what can be refused before an engine runs.

        Raises:
            ConfigError: The config as a whole cannot be deployed.
        """
        ...

    def prepare(self, environment: Environment, planned: Sequence[PlannedBots]) -> Site:
        """Describe the resources that placements of the host's own cloud stand on."""
        ...

    def deploy(self, environment: Environment, site: Site, placed: Sequence[PlacedBots]) -> Deployment:
        """Describe the dispatcher, with these placements.

        Args:
            site: What `prepare` returned.
        """
        ...


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
