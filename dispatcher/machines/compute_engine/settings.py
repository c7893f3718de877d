"""The settings of placements at Compute Engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dispatcher.machines.google.settings import ApiUrl, Deployment, GoogleShared, Project
from dispatcher.machines.settings import Agent, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider

Zone = Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$")]
Template = Annotated[
    str,
    Field(
        pattern=r"^((projects/[a-z0-9.:-]+/)?(global|regions/[a-z]+-[a-z]+[0-9]+)/instanceTemplates/)?"
        r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
    ),
]
Provisioning = Literal["standard", "spot"]


class ComputeEngineShared(GoogleShared):
    """Settings of all placements at Compute Engine."""

    api_url: ApiUrl = "https://compute.googleapis.com"
    """The Compute Engine API, for an endpoint of Private Service Connect."""


class ComputeEnginePlacement(PlacementSettings):
    """Machines are VMs of Compute Engine. An instance template per agent has the image, the size, the network
    and what the agent's `env` names."""

    shared: ClassVar[type[SharedSettings]] = ComputeEngineShared
    needs_image: ClassVar[bool] = False
    on_other_hosts: ClassVar[bool] = True

    provider: Literal["compute-engine"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""
    project: Project
    """Id of the Google Cloud project."""
    zones: tuple[Zone, ...] = Field(min_length=1, max_length=16)
    """The zones for machines, all of one region, in order: where one has no capacity, the next is asked."""
    draining_zones: tuple[Zone, ...] = Field(default=(), max_length=16)
    """Zones to be given up: they get no new machines, and their existing ones are still managed. Remove a
    zone from this list once it is empty."""
    templates: Mapping[str, Template] = Field(min_length=1)
    """Agent → its instance template, by name or as `regions/<region>/instanceTemplates/<name>`. A template
    never changes, so its name is the revision."""
    provisioning: Provisioning = "standard"
    """`spot`: VMs cost less, and Google may end one 30 seconds after a notice, in the middle of a call."""
    deployment: Deployment = "switchboard"
    """Tells this deployment's VMs from others in the same project; their names begin with it."""

    @model_validator(mode="after")
    def _zones_are_of_one_region(self) -> Self:
        every = (*self.zones, *self.draining_zones)
        for zone in every:
            if every.count(zone) > 1:
                raise ValueError(
                    f"zones: '{zone}' is given twice, in zones and drainingZones; allowed: each once"
                )
        regions = sorted({zone.rpartition("-")[0] for zone in every})
        if len(regions) > 1:
            # A template's subnet is in one region.
            raise ValueError(
                f"zones: they are in {' and '.join(regions)}; allowed: zones of one region, "
                "and a placement for each region"
            )
        return self

    def check_agent(self, name: str, agent: Agent) -> None:
        if name not in self.templates:
            raise ValueError(f"templates has none for this agent; it has: {', '.join(self.templates)}")

    def build(self, context: ProviderContext) -> MachineProvider:
        # Imported here: a dispatcher without such a placement needs no google-auth.
        from dispatcher.machines.compute_engine.client import RATES, ComputeApi
        from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
        from dispatcher.machines.compute_engine.request import Place
        from dispatcher.machines.google.api import GoogleApi
        from dispatcher.machines.google.credentials import Credentials

        shared = ComputeEngineShared.of(context.shared)
        tokens = Credentials(shared.given(context.placement), context.clock, context.http)
        url = f"{shared.api_url}/compute/v1"
        api = GoogleApi("Compute Engine", url, tokens, context.clock, RATES, context.http)
        place = Place(
            deployment=self.deployment,
            project=self.project,
            zones=self.zones,
            draining_zones=self.draining_zones,
            templates=self.templates,
            spot=self.provisioning == "spot",
        )
        return ComputeEngineProvider(ComputeApi(api, self.project), place, context.clock)
