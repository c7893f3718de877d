"""A placement's bots: the templates of agents that have VMs, the jobs of the others, and the end of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi
import pulumi_gcp as gcp

from dispatcher.machines.settings import PlacementSettings
from dispatcher.settings import AgentSettings
from stacks.deployment import Environment, PlannedBots
from stacks.gcp import machines, names
from stacks.gcp.config import GcpPlacementConfig
from stacks.gcp.ending import BotMachines
from stacks.gcp.executions import BotExecutions
from stacks.gcp.jobs import BotJobs, BotJobsArgs
from stacks.gcp.logs import place, place_of_jobs
from stacks.gcp.network import Network
from stacks.gcp.permissions import Grant
from stacks.gcp.registry import Registry
from stacks.gcp.templates import BotTemplates, BotTemplatesArgs

JOBS = "-jobs"
"""End of the name of the dispatcher's placement of agents that have jobs."""


@dataclass(frozen=True)
class Bots:
    """The resources of a placement's bots, for its dispatcher."""

    settings: Mapping[str, pulumi.Output[PlacementSettings]]
    grants: Sequence[Mapping[str, Any]]
    swept: Sequence[pulumi.Resource]
    logs: Sequence[str]


@dataclass(frozen=True)
class Standing:
    """The resources that a placement's bots stand on."""

    provider: gcp.Provider
    network: Network
    registry: Registry


def bots(
    environment: Environment,
    planned: PlannedBots,
    prefix: str,
    here: Standing,
    agents: Mapping[str, AgentSettings],
    built: Mapping[str, pulumi.Output[str]],
) -> Bots:
    """Describe the templates of agents that have VMs, and the jobs of the others."""
    keys = cast(GcpPlacementConfig, planned.keys)
    opts = pulumi.ResourceOptions(provider=here.provider)
    called = names.prefix(environment, planned.name)
    deployment, zones = names.deployment(called), [*keys.zone_names, *keys.draining_zone_names]
    jobs = {agent: of for agent, of in agents.items() if machines.is_job(of, keys)}
    vms = {agent: of for agent, of in agents.items() if agent not in jobs}
    settings: dict[str, pulumi.Output[PlacementSettings]] = {}
    grants: list[Grant] = []
    swept: list[pulumi.Resource] = []
    logs: list[str] = []
    if vms:
        templates = BotTemplates(
            f"{prefix}bots",
            BotTemplatesArgs(
                prefix=called,
                deployment=deployment,
                project=keys.project,
                region=keys.region,
                zones=zones,
                agents={agent: machines.vm_of(agent, of, keys, built[agent]) for agent, of in vms.items()},
                network=here.network,
                public=not keys.nat,
                registry=here.registry,
                disk_gb=keys.disk_gb,
                spot=keys.capacity == "spot",
                labels=environment.tags(),
            ),
            opts,
        )
        settings[planned.name] = _settings(planned, planned.name, "templates", templates.references(), built)
        grants += templates.grants
        logs.append(place(keys.project, deployment))
        ending = BotMachines(
            f"{prefix}machines",
            project=keys.project,
            zones=zones,
            deployment=deployment,
            # Deleted before the subnet that the VMs are in.
            opts=pulumi.ResourceOptions(depends_on=[templates, here.network]),
        )
        swept.append(ending)
    if jobs:
        runs = BotJobs(
            f"{prefix}jobs",
            BotJobsArgs(
                prefix=called,
                deployment=deployment,
                project=keys.project,
                region=keys.region,
                agents={agent: machines.job_of(agent, of, built[agent]) for agent, of in jobs.items()},
                registry=here.registry,
                labels=environment.tags(),
            ),
            opts,
        )
        name = f"{planned.name}{JOBS}"
        settings[name] = _settings(planned, name, "jobs", runs.references(), built)
        grants += runs.grants
        logs.append(place_of_jobs(keys.project, keys.region, deployment))
        swept.append(
            BotExecutions(
                f"{prefix}executions",
                project=keys.project,
                region=keys.region,
                deployment=deployment,
                opts=pulumi.ResourceOptions(depends_on=[runs]),
            )
        )
    return Bots(settings, [one.written() for one in grants], swept, logs)


def _settings(
    planned: PlannedBots,
    name: str,
    field: str,
    references: Mapping[str, pulumi.Output[str]],
    built: Mapping[str, pulumi.Output[str]],
) -> pulumi.Output[PlacementSettings]:
    """Return a placement's settings with what the stack made.

    Args:
        field: Setting that has the agents' templates or jobs.
    """
    stand_in = planned.settings[name]

    def made(found: dict[str, object]) -> PlacementSettings:
        return stand_in.model_copy(update=found)

    images_ = pulumi.Output.all(**{agent: built[agent] for agent in references})
    return pulumi.Output.all(**{field: pulumi.Output.all(**references), "images": images_}).apply(made)
