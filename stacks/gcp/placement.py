"""A place for bots at Google Cloud: network, registry, images, and a template or a job for each agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pulumi
import pulumi_gcp as gcp

from dispatcher.machines.cloud_run_jobs.settings import CloudRunJobsPlacement as CloudRunJobsSettings
from dispatcher.machines.compute_engine.settings import ComputeEnginePlacement as ComputeEngineSettings
from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import ENVIRONMENT_PREFIX, AgentSettings
from stacks.clouds import keys_of
from stacks.core_config import CoreConfig
from stacks.deployment import Environment, PlacedBots, PlannedBots, Site
from stacks.errors import ConfigError
from stacks.gcp import apis, machines, names, prices
from stacks.gcp.apis import Apis
from stacks.gcp.bots import JOBS, Standing, bots
from stacks.gcp.caller import Caller, caller
from stacks.gcp.config import PROJECT_WORDS, GcpPlacementConfig
from stacks.gcp.images import images
from stacks.gcp.jobs import CONTAINER
from stacks.gcp.network import Network, NetworkArgs
from stacks.gcp.registry import Registry, RegistryArgs
from stacks.gcp.sizes import job_size, machine_type
from stacks.prices import Price
from stacks.shared.images import Images
from stacks.shared.settings import agents_at, own_name, url_for_machines

PRICE_LIST = "Google's price list for us-central1 of 2026-11"

CREDENTIALS_VARIABLE = f"{ENVIRONMENT_PREFIX}COMPUTE_ENGINE_CREDENTIALS_OF"
JOBS_CREDENTIALS_VARIABLE = f"{ENVIRONMENT_PREFIX}CLOUD_RUN_JOBS_CREDENTIALS_OF"
"""Placement → the key of its service account, for a dispatcher that is not at Google Cloud."""


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
        machines.check(config, agents, keys, path)
        built = {agent: of.image or names.NOT_BUILT for agent, of in agents.items()}
        deployment = names.deployment(called)
        jobs = {agent: built[agent] for agent, of in agents.items() if machines.is_job(of, keys)}
        vms = {agent: image for agent, image in built.items() if agent not in jobs}
        settings: dict[str, PlacementSettings] = {}
        if vms:
            settings[name] = ComputeEngineSettings(
                provider="compute-engine",
                project=keys.project,
                zones=keys.zone_names,
                draining_zones=keys.draining_zone_names,
                templates=dict.fromkeys(vms, names.NO_TEMPLATE),
                provisioning=keys.capacity,
                deployment=deployment,
                images=vms,
                machine_url=machine_url,
            )
        if jobs:
            settings[f"{name}{JOBS}"] = CloudRunJobsSettings(
                provider="cloud-run-jobs",
                project=keys.project,
                region=keys.region,
                jobs=dict.fromkeys(jobs, names.NO_JOB),
                container=CONTAINER,
                deployment=deployment,
                images=jobs,
                machine_url=machine_url,
            )
        # Without jobs all agents are at the one placement, as those of other clouds.
        by_agent = {agent: (f"{name}{JOBS}" if agent in jobs else name,) for agent in agents} if jobs else {}
        return PlannedBots(
            name=name, cloud=names.CLOUD, keys=keys, settings=settings, by_agent=by_agent, images=built
        )

    def place(self, environment: Environment, planned: PlannedBots, site: Site) -> PlacedBots:
        keys = cast(GcpPlacementConfig, planned.keys)
        own = own_name(planned.name, site)
        prefix = "" if own else f"{planned.name}-"
        called = names.prefix(environment, planned.name)
        agents = agents_at(environment.config, planned.name)
        here = GcpSite.of(site) if own else _made(environment, planned, prefix, agents)
        built = here.images.bots(agents, keys).agents
        if here.network is None:
            raise TypeError(f"the host made no network for its placement {planned.name}")
        stand = Standing(here.provider, here.network, here.registry)
        made = bots(environment, planned, prefix, stand, agents, built)
        opts = pulumi.ResourceOptions(provider=here.provider)
        outside = site.cloud != names.CLOUD
        account = caller(f"{prefix}dispatcher", called, keys.project, made.grants, opts) if outside else None
        return PlacedBots(
            planned=planned,
            settings=made.settings,
            images=built,
            secrets=_credentials(planned, account) if account else {},
            permissions=made.grants,
            needed=[*here.images.built, *(account.granted if account else ())],
            swept=made.swept,
            logs=made.logs,
        )

    def price(self, environment: Environment, planned: PlannedBots, agent: AgentSettings) -> Price:
        keys = cast(GcpPlacementConfig, planned.keys)
        if machines.is_job(agent, keys):
            job = job_size(agent.cpu, agent.memory_mb)
            return Price(
                prices.job_second(job.cpu, job.memory_mb),
                f"a Cloud Run job with {job.cpu} vCPU and {job.memory_mb} MB, by {PRICE_LIST}, at least "
                f"{prices.LEAST_SECONDS} s; without media and AI services",
            )
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
    over_webrtc = any(machines.WEBRTC in of.transports for of in agents_at(environment.config, name).values())
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


def _credentials(planned: PlannedBots, account: Caller) -> dict[str, Mapping[str, pulumi.Input[str]]]:
    """Return the secret variables of a dispatcher elsewhere."""
    variables = {"compute-engine": CREDENTIALS_VARIABLE, "cloud-run-jobs": JOBS_CREDENTIALS_VARIABLE}
    return {variables[of.provider]: {name: account.key} for name, of in planned.settings.items()}
