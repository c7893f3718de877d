"""The settings of placements at Cloud Run jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dispatcher.machines.google.settings import ApiUrl, Deployment, GoogleShared, Project
from dispatcher.machines.settings import Agent, PlacementSettings, ProviderContext
from dispatcher.plugins import SharedSettings

if TYPE_CHECKING:
    from dispatcher.machines.provider import MachineProvider

Job = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")]

OVER_UDP = ("webrtc", "daily")
"""Transports whose audio travels over UDP."""


class CloudRunJobsShared(GoogleShared):
    """Settings of all placements at Cloud Run jobs."""

    api_url: ApiUrl = "https://run.googleapis.com"
    """The Cloud Run Admin API, for a regional endpoint or one of Private Service Connect."""


class CloudRunJobsPlacement(PlacementSettings):
    """Machines are executions of Cloud Run jobs. A job per agent has the image, the size and what the agent's
    `env` names. They carry no WebRTC."""

    shared: ClassVar[type[SharedSettings]] = CloudRunJobsShared
    needs_image: ClassVar[bool] = False
    on_other_hosts: ClassVar[bool] = True

    provider: Literal["cloud-run-jobs"]  # pyright: ignore[reportIncompatibleVariableOverride] - frozen
    """Machine provider of the placement."""
    project: Project
    """Id of the Google Cloud project."""
    region: str = Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")
    """Region of the jobs, such as `europe-west4`."""
    jobs: Mapping[str, Job] = Field(min_length=1)
    """Agent → its job. The job has one task, no retries, and a container whose command runs its arguments as
    they are: `["/usr/bin/env"]`."""
    container: str = Field(default="", pattern=r"^([a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$")
    """Name of the bot's container, for jobs with several."""
    deployment: Deployment = "switchboard"
    """Tells this deployment's executions from others of the same jobs."""

    def check_agent(self, name: str, agent: Agent) -> None:
        if name not in self.jobs:
            raise ValueError(f"jobs has none for this agent; it has: {', '.join(self.jobs)}")
        if silent := [transport for transport in agent.transports if transport in OVER_UDP]:
            raise ValueError(
                f"transports: {' and '.join(silent)} cannot be used here: a Cloud Run job gets no inbound "
                "traffic, and its UDP is not reliable, so callers would hear nothing; allowed: other "
                "transports, or a placement at compute-engine for this agent"
            )

    def build(self, context: ProviderContext) -> MachineProvider:
        # Imported here: a dispatcher without such a placement needs no google-auth.
        from dispatcher.machines.cloud_run_jobs.client import RATES, RunApi
        from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
        from dispatcher.machines.cloud_run_jobs.request import Place
        from dispatcher.machines.google.api import GoogleApi
        from dispatcher.machines.google.credentials import Credentials

        shared = CloudRunJobsShared.of(context.shared)
        tokens = Credentials(shared.given(context.placement), context.clock, context.http)
        api = GoogleApi("Cloud Run", f"{shared.api_url}/v2", tokens, context.clock, RATES, context.http)
        place = Place(
            deployment=self.deployment,
            project=self.project,
            region=self.region,
            jobs=self.jobs,
            container=self.container,
        )
        return CloudRunJobsProvider(RunApi(api), place, context.clock)
