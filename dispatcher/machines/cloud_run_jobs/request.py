"""Cloud Run's request for a machine: the overrides of a job's execution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bot.protocol import BOT_FILE_VARIABLE, without_secrets
from dispatcher.machines.deadline import KILL_AFTER_SECONDS, command
from dispatcher.machines.provider import MACHINE_VARIABLE, MachineSpec, Rejected, thread_variables

DEPLOYMENT_VARIABLE = "SWITCHBOARD_DEPLOYMENT"
"""Variable of an execution with its deployment. With `MACHINE_VARIABLE` it is the execution's identity: Cloud
Run gives an execution no name or label of the caller's choice."""

MOST_SECONDS = 168 * 3600
"""Limit on a task's timeout: "Set task timeout for jobs" in Cloud Run's documentation."""

VARIABLE_BYTES = 32 * 1024
"""Limit on a variable: "Cloud Run quotas"."""


@dataclass(frozen=True, slots=True)
class Place:
    """Facts that all machines of a placement share."""

    deployment: str
    project: str
    region: str
    jobs: Mapping[str, str]
    container: str = ""
    late: timedelta = timedelta(seconds=30)
    """Time from its session's deadline until a machine ends itself."""

    def job(self, agent: str) -> str:
        """Return the name of an agent's job.

        Raises:
            Rejected: It has none.
        """
        if (given := self.jobs.get(agent)) is None:
            raise Rejected(f"jobs has none for agent '{agent}'; it has: {', '.join(self.jobs)}")
        return self._named(given)

    @property
    def every_job(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._named(job) for job in self.jobs.values()))

    @property
    def any_job(self) -> str:
        """Return the name that stands for all jobs of the region in a list ("Method: executions.list")."""
        return self._named("-")

    def _named(self, job: str) -> str:
        return f"projects/{self.project}/locations/{self.region}/jobs/{job}"


def run_job(place: Place, spec: MachineSpec) -> dict[str, Any]:
    """Return the JSON body of `jobs.run`.

    It holds nothing that is secret for longer than the machine lives: the console shows an execution's
    arguments and variables.

    Raises:
        Rejected: A variable is larger than Cloud Run allows.
    """
    seconds = math.ceil((spec.max_duration + place.late).total_seconds())
    variables = {
        "HOME": "/tmp",  # noqa: S108 - its own
        **thread_variables(spec.cpu),
        BOT_FILE_VARIABLE: spec.bot_file,
        # Without the agent's own variables: the job has them, as references to Secret Manager.
        **spec.environment,
        MACHINE_VARIABLE: spec.id,
        DEPLOYMENT_VARIABLE: place.deployment,
    }
    for name, value in variables.items():
        if (size := len(value.encode())) > VARIABLE_BYTES:
            raise Rejected(f"variable {name} has {size} bytes, and Cloud Run allows {VARIABLE_BYTES}")
    container: dict[str, Any] = {
        "args": [*command(seconds), *without_secrets(spec.arguments)],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
    }
    if place.container:
        container["name"] = place.container
    most = min(seconds + KILL_AFTER_SECONDS, MOST_SECONDS)
    return {"overrides": {"taskCount": 1, "timeout": f"{most}s", "containerOverrides": [container]}}
