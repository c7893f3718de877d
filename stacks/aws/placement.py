"""A place for bots at AWS: network, registry, images, and a task definition for each agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pulumi
import pulumi_aws as aws

from dispatcher.machines.ecs.settings import EcsPlacement as EcsSettings
from dispatcher.machines.ecs.sizes import fargate_size
from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import AgentSettings
from stacks.aws import names, prices
from stacks.aws.config import AwsKeys, AwsPlacementConfig
from stacks.aws.ending import Tasks
from stacks.aws.events import TaskEvents, TaskEventsArgs
from stacks.aws.images import PLATFORMS, image_names, images
from stacks.aws.logs import place
from stacks.aws.network import Network, NetworkArgs
from stacks.aws.registry import Registry, RegistryArgs, ecr_repository
from stacks.aws.tasks import CONTAINER, AgentTask, BotTasks, BotTasksArgs
from stacks.clouds import keys_of
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.prices import Price
from stacks.shared.environment import given
from stacks.shared.images import Images
from stacks.shared.settings import agents_at, own_name
from stacks.shared.slugs import slugs

PLATFORM_VERSION = "1.4.0"
"""Fargate's; "LATEST" is the same until AWS says otherwise, and then changes without a word."""

PRICE_LIST = "AWS's price list for us-east-1 of 2026-09"


@dataclass(frozen=True, kw_only=True)
class AwsSite(Site):
    """A host at AWS, as placements there see it."""

    region: str
    provider: aws.Provider
    network: Network
    registry: Registry
    images: Images
    """The dispatcher's, and those of the host's own placement."""
    url: pulumi.Output[str]
    """The dispatcher's public URL."""
    events_key: pulumi.Output[str]
    """Secret with which EventBridge calls the dispatcher."""


class AwsPlacement:
    """Ability of the cloud `aws` to give a place to bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        if site.cloud != names.CLOUD:
            raise ConfigError(
                f"switchboard:placements.{name}.cloud: {names.CLOUD!r} is refused, since a dispatcher of "
                f"cloud {site.cloud} would need an access key of AWS that never expires; allowed: any other "
                f"cloud, or cloud: {names.CLOUD} for the stack"
            )
        config = environment.config
        keys = cast(AwsPlacementConfig, keys_of(config, name))
        if own_name(name, site) and keys.region != (host := AwsKeys.of(config).aws.region):
            raise ConfigError(
                f"switchboard:placements.{name}.region: {keys.region!r} is refused, since the placement "
                f"called {name} is in the dispatcher's network; allowed: {host}, the region of "
                "switchboard:aws, or another name for the placement"
            )
        called = names.prefix(environment, name)
        agents = agents_at(config, name)
        for agent, of in agents.items():
            _size(agent, of)
        built = {agent: of.image or names.NOT_BUILT for agent, of in agents.items()}
        settings = EcsSettings(
            provider="ecs",
            region=keys.region,
            cluster=called,
            subnets=(names.NO_SUBNET,),
            security_groups=(names.NO_GROUP,),
            task_definitions={agent: f"{names.family(called, agent)}:1" for agent in agents},
            container=CONTAINER,
            capacity=keys.capacity,
            platform_version=PLATFORM_VERSION,
            log_group=f"/{called}/bots",
            # Bots cost more than all else of a stack: without its tags no budget counts them.
            propagate_tags=True,
            images=built,
        )
        return PlannedBots(
            name=name,
            cloud=names.CLOUD,
            keys=keys,
            settings={name: settings},
            images=built,
            names=names.taken(environment, called, keys.region, agents),
        )

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        here, keys = AwsSite.of(site), cast(AwsPlacementConfig, planned.keys)
        own = own_name(planned.name, site)
        prefix = "" if own else f"{planned.name}-"
        called = names.prefix(environment, planned.name)
        agents = agents_at(environment.config, planned.name)
        region_provider = here.provider if own else provider(f"{prefix}aws", keys.region)
        opts = pulumi.ResourceOptions(provider=region_provider)
        network = (
            here.network
            if own
            else Network(f"{prefix}network", network_args(environment, planned.name), opts)
        )
        parents = {of.bot.parent for of in agents.values() if of.image is None}
        called_images = image_names(list(slugs(parents, environment.checkout).values()))
        registry = here.registry
        if not own and called_images:
            registry = Registry(
                f"{prefix}registry",
                RegistryArgs(called, called_images, cache=True, tags=environment.tags()),
                opts,
            )
        building = (
            here.images
            if own or not called_images
            else images(
                f"{prefix}images",
                environment.checkout,
                registry,
                region_provider,
                keys,
                prefix=prefix,
            )
        )
        built = building.bots(agents, keys, platforms=[PLATFORMS[keys.architecture]]).agents
        of_directory = slugs(parents, environment.checkout)
        tasks = BotTasks(
            f"{prefix}bots",
            BotTasksArgs(
                prefix=called,
                region=keys.region,
                agents={
                    agent: AgentTask(
                        image=built[agent],
                        cpu_units=_size(agent, of)[0],
                        memory_mb=_size(agent, of)[1],
                        variables=given(of.env),
                        repository=ecr_repository(of.image)
                        if of.image is not None
                        else registry.repositories[f"bot-{of_directory[of.bot.parent]}"].arn,
                    )
                    for agent, of in agents.items()
                },
                architecture=keys.fargate_architecture,
                log_days=keys.log_days,
                secret_store=keys.secrets,
                tags=environment.tags(),
            ),
            opts,
        )
        TaskEvents(
            f"{prefix}events",
            TaskEventsArgs(
                prefix=called,
                cluster=tasks.cluster.arn,
                url=here.url,
                key=here.events_key,
                tags=environment.tags(),
            ),
            opts,
        )
        ending = Tasks(
            f"{prefix}tasks",
            cluster=tasks.cluster.name,
            region=keys.region,
            profile=profile(),
            # Deleted before the groups and the cluster that the tasks are in.
            opts=pulumi.ResourceOptions(depends_on=[tasks, network]),
        )
        return PlacedBots(
            planned=planned,
            settings={planned.name: _settings(planned, tasks, network, built)},
            images=built,
            permissions=[one.written() for one in tasks.statements],
            needed=building.built,
            swept=[ending],
            logs=[place(keys.region, f"/{called}/bots")],
        )

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        keys = cast(AwsPlacementConfig, planned.keys)
        size = fargate_size(agent.cpu, agent.memory_mb)
        spot = keys.capacity == "spot"
        second = prices.task_second(size.cpu, size.memory_mb, keys.fargate_architecture, spot=spot)
        rounded = (agent.cpu * 1024, agent.memory_mb) != (size.cpu, size.memory_mb)
        what = f"a Fargate task of {size.cpu / 1024:g} vCPU with {size.memory_mb} MB"
        note = f", the next size above {agent.cpu:g} vCPU with {agent.memory_mb} MB" if rounded else ""
        kind = f"{keys.architecture}{', on Spot' if spot else ''}"
        return Price(
            second, f"{what} ({kind}){note}, by {PRICE_LIST}, at least 60 s; without media and AI services"
        )


def _settings(
    planned: PlannedBots,
    tasks: BotTasks,
    network: Network,
    built: Mapping[str, pulumi.Output[str]],
) -> pulumi.Output[PlacementSettings]:
    """Return the placement's settings with what the stack made."""
    (stand_in,) = planned.settings.values()

    def made(found: dict[str, object]) -> PlacementSettings:
        return stand_in.model_copy(update=found)

    return pulumi.Output.all(
        cluster=tasks.cluster.name,
        subnets=pulumi.Output.all(*network.subnet_ids).apply(tuple),
        security_groups=network.bots.id.apply(lambda group: (group,)),
        task_definitions=pulumi.Output.all(**tasks.revisions()),
        log_group=tasks.log_group.name,
        images=pulumi.Output.all(**built),
    ).apply(made)


def _size(agent: str, of: AgentSettings) -> tuple[int, int]:
    """Return the agent's size at Fargate. Raises ConfigError if there is none that large."""
    try:
        size = fargate_size(of.cpu, of.memory_mb)
    except ValueError as error:
        raise ConfigError(f"switchboard:agents.{agent}: {error}") from None
    return size.cpu, size.memory_mb


def network_args(environment: Environment, name: str) -> NetworkArgs:
    """Return a placement's network as its keys have it."""
    keys = cast(AwsPlacementConfig, keys_of(environment.config, name))
    over_webrtc = any("webrtc" in of.transports for of in agents_at(environment.config, name).values())
    return NetworkArgs(
        region=keys.region,
        zones=keys.zone_names,
        cidr=keys.cidr,
        vpc_id=keys.vpc_id,
        subnet_ids=keys.subnet_ids,
        udp_ports=keys.udp_ports if over_webrtc else None,
        interface_endpoints=keys.interface_endpoints,
        tags=environment.tags(),
    )


def provider(logical_name: str, region: str) -> aws.Provider:
    """Describe AWS's provider for a region, with the credentials of whoever runs the engine."""
    return aws.Provider(logical_name, region=region, profile=profile() or None)


def profile() -> str:
    """Return `aws:profile`, which an explicit provider does not read by itself; empty if it is not set."""
    return pulumi.Config("aws").get("profile") or ""
