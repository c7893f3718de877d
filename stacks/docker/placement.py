"""The place for bots at a stack's Docker engine: its network, the images, the end of its containers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pulumi
import pulumi_docker as docker

from dispatcher.settings import AgentSettings
from stacks.clouds import keys_of
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.docker import settings
from stacks.docker.bots import Machines
from stacks.docker.config import ZSTD_WITHOUT_REGISTRY, DockerKeys, DockerPlacementConfig
from stacks.docker.firewall import Firewall, FirewallArgs, reached
from stacks.docker.network import Networks
from stacks.errors import ConfigError
from stacks.prices import OWN_MACHINE, Price
from stacks.shared.environment import given
from stacks.shared.images import BotImages, Images
from stacks.shared.settings import agents_at

CLOUD = "docker"
NOT_MADE = "not-known-yet"


@dataclass(frozen=True, kw_only=True)
class DockerSite(Site):
    """The host's resources that the placement at the same engine stands on."""

    images: Images
    networks: Networks
    dispatcher: pulumi.Output[str]
    """Reference of the dispatcher's image."""
    on_engine: docker.Provider


@dataclass(frozen=True, kw_only=True)
class DockerBots(PlacedBots):
    """The placement, with what only its own engine's host looks at."""

    built: BotImages
    agents: Mapping[str, AgentSettings]
    keys: DockerPlacementConfig
    firewall: Firewall | None


class DockerPlacement:
    """Ability of the cloud `docker` to give a place to bots. Only its own host has one: `docker.host`."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        if site.cloud != CLOUD:
            raise ConfigError(
                f"switchboard:placements.{name}.cloud: {CLOUD!r} is refused, since a dispatcher of cloud "
                f"{site.cloud} reaches no Docker engine; allowed: any other cloud, or cloud: {CLOUD} for the "
                "stack"
            )
        entries = environment.config.placements
        if others := sorted(one for one, of in entries.items() if of.cloud == CLOUD and one != CLOUD):
            raise ConfigError(
                f"switchboard:placements.{others[0]}: is refused, since a stack has one Docker engine; "
                f"allowed: one placement of cloud {CLOUD}, which is called {CLOUD}"
            )
        keys = cast(DockerPlacementConfig, keys_of(environment.config, name))
        if keys.compression == "zstd" and not DockerKeys.of(environment.config).docker.registry:
            raise ConfigError(f"switchboard:placements.{name}.{ZSTD_WITHOUT_REGISTRY}")
        return PlannedBots(
            name=name,
            cloud=CLOUD,
            keys=keys,
            settings={name: settings.placement(NOT_MADE, NOT_MADE, keys.models)},
        )

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        keys = cast(DockerPlacementConfig, planned.keys)
        agents = agents_at(environment.config, planned.name)
        deployment = f"{environment.project}-{environment.stack}"
        site = DockerSite.of(site)
        built = site.images.bots(agents, keys, models=bool(keys.models))
        firewall = _firewall(environment, site)
        # Bots are started while there are rules, and end before the rules go.
        kept = [firewall.rules] if firewall is not None else []
        # A network with a container in it cannot be deleted: they go first.
        machines = Machines(
            "machines",
            host=DockerKeys.of(environment.config).docker.host,
            deployment=deployment,
            opts=pulumi.ResourceOptions(depends_on=[site.networks.machines, *kept]),
        )
        network = site.networks.machines.name
        names = {name for agent in agents.values() for name in agent.env}
        return DockerBots(
            planned=planned,
            settings={
                planned.name: network.apply(lambda found: settings.placement(deployment, found, keys.models))
            },
            images=built.agents,
            # The dispatcher hands them to its containers.
            secrets={name: pulumi.Output.secret(value) for name, value in given(names).items()},
            needed=kept,
            swept=[machines],
            logs=[deployment],
            built=built,
            agents=agents,
            keys=keys,
            firewall=firewall,
        )

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        return OWN_MACHINE


def _firewall(environment: Environment, site: DockerSite) -> Firewall | None:
    keys = DockerKeys.of(environment.config).docker
    if not keys.firewall:
        return None
    return Firewall(
        "firewall-container",
        FirewallArgs(
            prefix=f"{environment.project}-{environment.stack}",
            host=keys.host,
            image=site.dispatcher,
            reached=reached(keys),
            tags=environment.tags(),
        ),
        opts=pulumi.ResourceOptions(providers=[site.on_engine], depends_on=site.images.built),
    )
