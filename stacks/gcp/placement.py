"""A place for bots at Google Cloud: network, registry, images, and an instance template for each agent."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_gcp as gcp

from dispatcher.machines.compute_engine.settings import ComputeEnginePlacement as ComputeEngineSettings
from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import ENVIRONMENT_PREFIX, AgentSettings
from stacks.clouds import keys_of
from stacks.core_config import CoreConfig
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.gcp import apis, bindings, names, prices
from stacks.gcp.apis import Apis
from stacks.gcp.config import PROJECT_WORDS, GcpPlacementConfig
from stacks.gcp.ending import BotMachines
from stacks.gcp.images import images
from stacks.gcp.logs import place
from stacks.gcp.network import Network, NetworkArgs
from stacks.gcp.registry import Registry, RegistryArgs
from stacks.gcp.sizes import MachineType, machine_type
from stacks.gcp.templates import AgentMachine, BotTemplates, BotTemplatesArgs
from stacks.prices import Price
from stacks.shared.environment import given
from stacks.shared.images import Images
from stacks.shared.settings import agents_at, own_name, url_for_machines

PRICE_LIST = "Google's price list for us-central1 of 2026-11"

CREDENTIALS_VARIABLE = f"{ENVIRONMENT_PREFIX}COMPUTE_ENGINE_CREDENTIALS_OF"
"""Placement → the key of its service account, for a dispatcher that is not at Google Cloud."""

WEBRTC = "webrtc"


@dataclass(frozen=True, kw_only=True)
class GcpSite(Site):
    """A host at Google Cloud, as placements there see it."""

    provider: gcp.Provider
    network: Network | None
    """Of the host's own placement; None if it has none."""
    registry: Registry
    images: Images
    """The dispatcher's, and those of the host's own placement."""


class GcpPlacement:
    """Ability of the cloud `gcp` to give a place to bots."""

    def plan(self, environment: Environment, name: str, site: Site) -> PlannedBots:
        config = environment.config
        keys = cast(GcpPlacementConfig, keys_of(config, name))
        path = path_of(config, name)
        if not keys.project:
            raise ConfigError(f"{path}.project: is missing; allowed: {PROJECT_WORDS}")
        machine_url = url_for_machines(site, names.CLOUD, name)
        called = names.prefix(environment, name)
        agents = agents_at(config, name)
        for agent, of in agents.items():
            _type(agent, of, keys)
        _refuse_silence(config, agents, keys, path)
        built = {agent: of.image or names.NOT_BUILT for agent, of in agents.items()}
        settings = ComputeEngineSettings(
            provider="compute-engine",
            project=keys.project,
            zones=keys.zone_names,
            draining_zones=keys.draining_zone_names,
            templates=dict.fromkeys(agents, names.NO_TEMPLATE),
            provisioning=keys.capacity,
            deployment=names.deployment(called),
            images=built,
            machine_url=machine_url,
        )
        return PlannedBots(name=name, cloud=names.CLOUD, keys=keys, settings={name: settings}, images=built)

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        keys = cast(GcpPlacementConfig, planned.keys)
        own = own_name(planned.name, site)
        prefix = "" if own else f"{planned.name}-"
        called = names.prefix(environment, planned.name)
        agents = agents_at(environment.config, planned.name)
        here = GcpSite.of(site) if own else _made(environment, planned, prefix, agents)
        network = here.network
        if network is None:
            raise TypeError(f"the host made no network for its placement {planned.name}")
        opts = pulumi.ResourceOptions(provider=here.provider)
        built = here.images.bots(agents, keys).agents
        bots = BotTemplates(
            f"{prefix}bots",
            BotTemplatesArgs(
                prefix=called,
                deployment=names.deployment(called),
                project=keys.project,
                region=keys.region,
                zones=[*keys.zone_names, *keys.draining_zone_names],
                agents={agent: _machine(agent, of, keys, built[agent]) for agent, of in agents.items()},
                network=network,
                public=not keys.nat,
                registry=here.registry,
                disk_gb=keys.disk_gb,
                spot=keys.capacity == "spot",
                labels=environment.tags(),
            ),
            opts,
        )
        ending = BotMachines(
            f"{prefix}machines",
            project=keys.project,
            zones=[*keys.zone_names, *keys.draining_zone_names],
            deployment=names.deployment(called),
            # Deleted before the subnet that the VMs are in.
            opts=pulumi.ResourceOptions(depends_on=[bots, network]),
        )
        grants = [one.written() for one in bots.grants]
        outside = site.cloud != names.CLOUD
        caller = _caller(f"{prefix}dispatcher", called, keys.project, grants, opts) if outside else None
        return PlacedBots(
            planned=planned,
            settings={planned.name: _settings(planned, bots, built)},
            images=built,
            secrets={CREDENTIALS_VARIABLE: {planned.name: caller.key}} if caller else {},
            permissions=grants,
            needed=[*here.images.built, *(caller.granted if caller else ())],
            swept=[ending],
            logs=[place(keys.project, names.deployment(called))],
        )

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        keys = cast(GcpPlacementConfig, planned.keys)
        size = machine_type(agent.cpu, agent.memory_mb, keys.machine_type)
        spot = keys.capacity == "spot"
        second = prices.machine_second(
            size.name, size.cpu, size.memory_mb, keys.disk_gb, spot=spot, nat=keys.nat
        )
        kind = " on Spot" if spot else ""
        return Price(
            second,
            f"a VM {size.name}{kind} with {keys.disk_gb} GB of disk, by {PRICE_LIST}, at least "
            f"{prices.LEAST_SECONDS} s; without media and AI services",
        )


def path_of(config: CoreConfig, name: str) -> str:
    """Return the path of a placement's keys in the config."""
    return f"switchboard:placements.{name}" if name in config.placements else f"switchboard:{names.CLOUD}"


def network_args(environment: Environment, name: str) -> NetworkArgs:
    """Return a placement's network as its keys have it."""
    keys = cast(GcpPlacementConfig, keys_of(environment.config, name))
    over_webrtc = any(WEBRTC in of.transports for of in agents_at(environment.config, name).values())
    return NetworkArgs(
        prefix=names.prefix(environment, name),
        project=keys.project,
        region=keys.region,
        cidr=keys.cidr,
        network=keys.network,
        subnetwork=keys.subnetwork,
        udp_ports=keys.udp_ports if over_webrtc else None,
        nat=keys.nat,
    )


def provider(logical_name: str, keys: GcpPlacementConfig, labels: Mapping[str, str]) -> gcp.Provider:
    """Describe Google's provider for a project, with the credentials of whoever runs the engine."""
    return gcp.Provider(logical_name, project=keys.project, region=keys.region, default_labels=dict(labels))


def _made(
    environment: Environment, planned: PlannedBots, prefix: str, agents: Mapping[str, AgentSettings]
) -> GcpSite:
    """Describe what a placement stands on that is not the host's own."""
    keys = cast(GcpPlacementConfig, planned.keys)
    called, labels = names.prefix(environment, planned.name), environment.tags()
    at_google = provider(f"{prefix}gcp", keys, labels)
    opts = pulumi.ResourceOptions(provider=at_google)
    enabled = Apis(f"{prefix}apis", keys.project, apis.OF_BOTS, opts).enabled
    after = pulumi.ResourceOptions(provider=at_google, depends_on=enabled)
    registry = Registry(f"{prefix}registry", RegistryArgs(called, keys.project, keys.region, labels), after)
    return GcpSite(
        names.CLOUD,
        None,
        provider=at_google,
        network=Network(f"{prefix}network", network_args(environment, planned.name), after),
        registry=registry,
        images=images(f"{prefix}images", environment.checkout, registry, at_google, keys, keys.base, prefix),
    )


def _refuse_silence(
    config: CoreConfig, agents: Mapping[str, AgentSettings], keys: GcpPlacementConfig, path: str
) -> None:
    """Refuse calls that would connect and carry no sound. Raises ConfigError."""
    if not keys.nat or config.turn_urls or config.ice_servers:
        return
    for agent, of in agents.items():
        if WEBRTC in of.transports:
            raise ConfigError(
                f"{path}.nat: true is refused, since the agent {agent!r} offers webrtc, and callers do not "
                "reach a VM without a public address; allowed: nat: false, or TURN servers by turnUrls or "
                "iceServers"
            )


def _type(agent: str, of: AgentSettings, keys: GcpPlacementConfig) -> MachineType:
    """Return the agent's machine type. Raises ConfigError if there is none that large."""
    try:
        return machine_type(of.cpu, of.memory_mb, keys.machine_type)
    except ValueError as error:
        raise ConfigError(f"switchboard:agents.{agent}: {error}") from None


def _machine(
    agent: str, of: AgentSettings, keys: GcpPlacementConfig, image: pulumi.Input[str]
) -> AgentMachine:
    return AgentMachine(
        image=image,
        built=of.image is None,
        machine_type=_type(agent, of, keys).name,
        memory_mb=of.memory_mb,
        variables=given(of.env),
        udp_ports=keys.udp_ports if WEBRTC in of.transports else None,
    )


def _settings(
    planned: PlannedBots, bots: BotTemplates, built: Mapping[str, pulumi.Output[str]]
) -> pulumi.Output[PlacementSettings]:
    """Return the placement's settings with what the stack made."""
    (stand_in,) = planned.settings.values()

    def made(found: dict[str, object]) -> PlacementSettings:
        return stand_in.model_copy(update=found)

    return pulumi.Output.all(
        templates=pulumi.Output.all(**bots.references()), images=pulumi.Output.all(**built)
    ).apply(made)


@dataclass(frozen=True)
class Caller:
    """A dispatcher outside Google Cloud, as it is known there."""

    key: pulumi.Output[str]
    """The account's key, as JSON."""
    granted: Sequence[pulumi.Resource]


def _caller(
    name: str,
    prefix: str,
    project: str,
    grants: Sequence[Mapping[str, Any]],
    opts: pulumi.ResourceOptions,
) -> Caller:
    """Describe a service account with a key for a dispatcher elsewhere.

    The key never expires. Workload identity federation would do without one; it needs a pool that trusts the
    dispatcher's cloud, which this stack does not make.
    """
    account = gcp.serviceaccount.Account(
        f"{name}-account",
        project=project,
        account_id=names.account(prefix, "dispatcher"),
        display_name=f"Switchboard {prefix}: the dispatcher",
        opts=opts,
    )
    key = gcp.serviceaccount.Key(f"{name}-key", service_account_id=account.name, opts=opts)
    granted = [bindings.grant(name, account.member, one, opts) for one in grants]
    return Caller(
        pulumi.Output.secret(key.private_key.apply(lambda text: base64.b64decode(text).decode())),
        granted,
    )
