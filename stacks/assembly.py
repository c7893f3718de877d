"""A stack put together: its host and its placements, as its config names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
from pulumi.runtime import config as engine_config

from dispatcher.settings import AgentSettings
from stacks import clouds
from stacks.agent_variables import refuse_missing
from stacks.clouds import AsksCloud, Host, Placement
from stacks.config import parse
from stacks.deployment import Deployment, Environment, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.prices import Price
from stacks.secret_keys import refuse_in_clear


@dataclass(frozen=True)
class Plan:
    """A stack before anything is made."""

    environment: Environment
    host: Host
    site: Site
    """The host before anything is made."""
    placements: Sequence[tuple[Placement, PlannedBots]]

    @property
    def planned(self) -> list[PlannedBots]:
        return [planned for _, planned in self.placements]

    def prices_by_placement(self) -> list[tuple[str, str, Price]]:
        """Return agent, placement, and the price of its machine there, for all placements of each agent."""
        return [
            (name, planned.name, placement.price(self.environment, planned, agent))
            for name, agent in self.environment.config.agents.items()
            for placement, planned in self._asked_by(agent)
        ]

    def prices(self) -> dict[str, Price]:
        """Return agent → the price of its machine at the first of its placements."""
        found: dict[str, Price] = {}
        for name, _, price in self.prices_by_placement():
            found.setdefault(name, price)
        return found

    def _asked_by(self, agent: AgentSettings) -> list[tuple[Placement, PlannedBots]]:
        """Return the placements in the order in which the agent's sessions ask them."""
        if not agent.placements:
            return list(self.placements)
        by_name = {planned.name: (placement, planned) for placement, planned in self.placements}
        return [by_name[name] for name in agent.placements]


def plan(environment: Environment) -> Plan:
    """Plan a stack from its config alone.

    Raises:
        ConfigError: The config as a whole cannot be deployed.
    """
    config = environment.config
    host = clouds.load(config.cloud).host()
    if host is None:
        able = [name for name, cloud in clouds.importable().items() if cloud.host() is not None]
        raise ConfigError(
            f"switchboard:cloud: {config.cloud!r} runs no dispatcher; allowed: {', '.join(able)}"
        )
    site = host.site(environment)
    placements = []
    for placement in clouds.placements_of(config):
        able_to_place = placement.cloud.placement()
        if able_to_place is None:
            raise ConfigError(
                f"switchboard:placements.{placement.name}.cloud: {placement.cloud.name!r} gives no place"
            )
        placements.append((able_to_place, able_to_place.plan(environment, placement.name, site)))
    made = Plan(environment, host, site, placements)
    host.check(environment, made.planned)
    return made


def deploy(plan: Plan, *, ask: bool = True) -> Deployment:
    """Describe a stack's resources.

    Args:
        ask: Ask clouds what only they know, which needs their credentials.
    """
    for one, planned in plan.placements:
        if ask and isinstance(one, AsksCloud):
            one.ask(plan.environment, planned, plan.site)
    site = plan.host.prepare(plan.environment, plan.planned)
    placed = [one.place(plan.environment, planned, site) for one, planned in plan.placements]
    return plan.host.deploy(plan.environment, site, placed)


def describe(checkout: Path) -> None:
    """Run the program of the engine's stack. Raises pulumi.RunError, which shows without a traceback."""
    try:
        made = plan(current_environment(checkout))
        deploy(made).export(made.environment.config, made.prices())
    except ConfigError as error:
        raise pulumi.RunError(str(error)) from None


def current_environment(checkout: Path) -> Environment:
    """Return the environment of the running program. Raises ConfigError."""
    project, stack = pulumi.get_project(), pulumi.get_stack()
    # `pulumi.Config` answers for single keys only, so an unknown one would go unseen. A program in the
    # driver's own process has its config in CONFIG, one under the language host has it in its environment.
    values = {**engine_config.get_config_env(), **engine_config.CONFIG.get()}
    # Likewise of which keys are encrypted.
    secret = {key for key in values if engine_config.is_config_secret(key)}
    secret.update(engine_config.get_config_secret_keys_env())
    place = f"the config of stack {stack}"
    refuse_in_clear(values, project=project, stack=stack, place=place, secret=secret)
    config = parse(values, project=project, checkout=checkout, stack=stack)
    refuse_missing(config)
    return Environment(project, stack, checkout, config)
