"""An agent's Cloud Run job, which its executions run, with a service account and a secret for each variable.

Cloud Run carries no UDP that a call could rely on, so a job serves agents without `webrtc` and `daily`. A job
changes in place: an execution that runs keeps what it was made with. A job that is deleted takes its
executions with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

from stacks.gcp import names, permissions
from stacks.gcp.bindings import custom_role
from stacks.gcp.identity import identity
from stacks.gcp.permissions import Grant
from stacks.gcp.registry import Registry
from stacks.gcp.secrets import Secret, SecretArgs
from stacks.gcp.sizes import JobSize

CONTAINER = "bot"

SECONDS = 3600
"""Timeout of an execution that is run by hand. The dispatcher's own have the session's."""


@dataclass(frozen=True)
class AgentJob:
    """An agent's executions: image, size and secrets."""

    image: pulumi.Input[str]
    """Reference with the digest."""
    built: bool
    """True if the image is in the placement's registry."""
    size: JobSize
    variables: Mapping[str, pulumi.Input[str]]
    """Secret variables, by their names."""


@dataclass(frozen=True)
class BotJobsArgs:
    prefix: str
    deployment: str
    project: str
    region: str
    agents: Mapping[str, AgentJob]
    registry: Registry | None
    """Registry of the images that the stack builds; None if it builds none."""
    labels: Mapping[str, str]


class BotJobs(pulumi.ComponentResource):
    """A job for each agent, and the dispatcher's permissions."""

    jobs: dict[str, gcp.cloudrunv2.Job]
    grants: list[Grant]

    def __init__(self, name: str, args: BotJobsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:BotJobs", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self.jobs = {agent: self._job(agent, of) for agent, of in args.agents.items()}
        self.grants = self._grants()
        self.register_outputs({})

    def references(self) -> dict[str, pulumi.Output[str]]:
        """Return each agent's job as the provider is told of it."""
        return {agent: one.name for agent, one in self.jobs.items()}

    def _job(self, agent: str, of: AgentJob) -> gcp.cloudrunv2.Job:
        name, args, run = f"{self._name}-{agent}", self._args, gcp.cloudrunv2
        labels = {**args.labels, "agent": agent}
        registry = args.registry if of.built else None
        # Not the account of VMs, which an agent may have had before: that one goes later.
        part, words = f"{agent}-job", f"executions of the agent {agent}"
        made = identity(name, args.prefix, args.project, args.region, part, registry, words, self._within)
        secrets = {
            variable: Secret(
                f"{name}-{variable.lower().replace('_', '-')}",
                SecretArgs(
                    project=args.project,
                    region=args.region,
                    called=f"{args.prefix}-{agent}-{variable}",
                    value=value,
                    reader=made.account.member,
                    labels=labels,
                ),
                self._within,
            )
            for variable, value in of.variables.items()
        }
        ready = [*made.granted, *(one for secret in secrets.values() for one in secret.written)]
        envs = [
            run.JobTemplateTemplateContainerEnvArgs(
                name=variable,
                value_source=run.JobTemplateTemplateContainerEnvValueSourceArgs(
                    secret_key_ref=run.JobTemplateTemplateContainerEnvValueSourceSecretKeyRefArgs(
                        secret=secret.secret_id, version=secret.number
                    )
                ),
            )
            for variable, secret in sorted(secrets.items())
        ]
        return run.Job(
            f"{name}-job",
            project=args.project,
            location=args.region,
            name=names.job(args.deployment, agent),
            # The engine deletes what a down deletes. Nothing is stored in it.
            deletion_protection=False,
            labels=labels,
            template=run.JobTemplateArgs(
                task_count=1,
                parallelism=1,
                labels=labels,
                template=run.JobTemplateTemplateArgs(
                    # A second attempt would join the call again.
                    max_retries=0,
                    timeout=f"{SECONDS}s",
                    execution_environment="EXECUTION_ENVIRONMENT_GEN2",
                    service_account=made.account.email,
                    containers=[
                        run.JobTemplateTemplateContainerArgs(
                            name=CONTAINER,
                            image=of.image,
                            # Runs the execution's arguments as they are.
                            commands=["/usr/bin/env"],
                            envs=envs,
                            resources=run.JobTemplateTemplateContainerResourcesArgs(
                                limits={"cpu": str(of.size.cpu), "memory": f"{of.size.memory_mb}Mi"}
                            ),
                        )
                    ],
                ),
            ),
            # An execution starts as soon as there is a job: by then it may read what it names.
            opts=pulumi.ResourceOptions(parent=self, depends_on=ready),
        )

    def _grants(self) -> list[Grant]:
        args = self._args
        here = {"project": args.project, "region": args.region}
        made = {
            part: custom_role(self._name, args.prefix, args.project, part, allowed, title, self._within)
            for part, allowed, title in (
                ("jobs", permissions.JOBS, "run bots as jobs"),
                ("executions", permissions.EXECUTIONS, "find bots' executions"),
            )
        }
        found = [Grant(f"{self._name}-executions", "project", args.project, made["executions"].name, **here)]
        found += [
            Grant(f"{self._name}-{agent}-job", "job", one.name, made["jobs"].name, **here)
            for agent, one in self.jobs.items()
        ]
        return found
