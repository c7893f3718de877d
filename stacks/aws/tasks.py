"""A placement's cluster, and what a bot's task is made from: definition, roles, secrets, log group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from stacks.aws import fargate, permissions
from stacks.aws.config import Architecture
from stacks.aws.secrets import ContainerSecrets, ContainerSecretsArgs, SecretStore

CONTAINER = "bot"

STOP_SECONDS = 30
"""Between a bot's SIGTERM and its SIGKILL; Fargate allows 120. A bot says its last word, and leaves its
room."""


@dataclass(frozen=True)
class AgentTask:
    """An agent's tasks: image, size and secrets."""

    image: pulumi.Input[str]
    """Reference with the digest."""
    cpu_units: int
    memory_mb: int
    """A size that Fargate has."""
    variables: Mapping[str, pulumi.Input[str]]
    """Secret variables, by their names."""
    repository: pulumi.Input[str] | None
    """ARN of the image's repository in ECR; None if it is elsewhere."""


@dataclass(frozen=True)
class BotTasksArgs:
    prefix: str
    """Name of the cluster, and first part of the families' names."""
    region: str
    agents: Mapping[str, AgentTask]
    architecture: Architecture
    log_days: int
    secret_store: SecretStore
    tags: Mapping[str, str]


class BotTasks(pulumi.ComponentResource):
    """The cluster with a task definition for each agent."""

    cluster: aws.ecs.Cluster
    definitions: dict[str, aws.ecs.TaskDefinition]
    log_group: aws.cloudwatch.LogGroup
    statements: list[permissions.Statement]
    """The dispatcher's permissions here."""

    def __init__(self, name: str, args: BotTasksArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:BotTasks", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self.cluster = fargate.cluster(f"{name}-cluster", args.prefix, args.tags, self._within)
        aws.ecs.ClusterCapacityProviders(
            f"{name}-capacity",
            cluster_name=self.cluster.name,
            capacity_providers=["FARGATE", "FARGATE_SPOT"],
            opts=self._within,
        )
        self.log_group = fargate.log_group(
            f"{name}-log", f"/{args.prefix}/bots", args.log_days, args.tags, self._within
        )
        secrets = {agent: self._secrets(agent, task) for agent, task in args.agents.items()}
        self._execution = self._role("execution", "ECS starts bots with it; no bot has it")
        policy = aws.iam.RolePolicy(
            f"{name}-execution-policy",
            role=self._execution.id,
            policy=permissions.document(self._starts_containers(list(secrets.values()))),
            opts=self._within,
        )
        # A bot calls nothing of AWS with the account's permissions; whoever owns its process owns nothing.
        self._task = self._role("task", "Bots' own role, which may do nothing")
        self.definitions = {
            agent: self._definition(agent, task, secrets[agent], policy)
            for agent, task in args.agents.items()
        }
        self.statements = permissions.starts_bots(
            args.region,
            self.cluster.name,
            self.cluster.arn,
            [one.arn_without_revision for one in self.definitions.values()],
            [self._execution.arn, self._task.arn],
            suffix=name.title().replace("-", ""),
        )
        self.register_outputs({})

    def revisions(self) -> dict[str, pulumi.Output[str]]:
        """Return each agent's task definition as `family:revision`."""
        return {
            agent: pulumi.Output.concat(one.family, ":", one.revision.apply(revision))
            for agent, one in self.definitions.items()
        }

    def _secrets(self, agent: str, task: AgentTask) -> ContainerSecrets:
        return ContainerSecrets(
            f"{self._name}-{agent}-secrets",
            ContainerSecretsArgs(
                prefix=f"/{self._args.prefix}/{agent}",
                store=self._args.secret_store,
                values=task.variables,
                tags={**self._args.tags, "agent": agent},
            ),
            opts=self._within,
        )

    def _starts_containers(self, secrets: Sequence[ContainerSecrets]) -> list[permissions.Statement]:
        repositories = [one.repository for one in self._args.agents.values() if one.repository is not None]
        return permissions.starts_containers(
            repositories,
            [self.log_group.arn],
            [arn for one in secrets for arn in one.secrets],
            [arn for one in secrets for arn in one.parameters],
        )

    def _role(self, part: str, description: str) -> aws.iam.Role:
        prefix = self._args.prefix
        return fargate.role(
            f"{self._name}-{part}-role",
            f"{prefix}-bots-{part}",
            f"Switchboard {prefix}: {description}",
            self._args.tags,
            self._within,
        )

    def _definition(
        self, agent: str, task: AgentTask, secrets: ContainerSecrets, policy: aws.iam.RolePolicy
    ) -> aws.ecs.TaskDefinition:
        return fargate.definition(
            f"{self._name}-{agent}-task",
            family=f"{self._args.prefix}-{agent}",
            cpu_units=task.cpu_units,
            memory_mb=task.memory_mb,
            architecture=self._args.architecture,
            execution=self._execution,
            task=self._task,
            container=self._container(task, secrets),
            tags={**self._args.tags, "agent": agent},
            # A task starts as soon as there is a definition: by then it may read what it names.
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy, *secrets.written]),
        )

    def _container(self, task: AgentTask, secrets: ContainerSecrets) -> dict[str, Any]:
        return {
            **fargate.container(
                CONTAINER,
                image=task.image,
                stop_seconds=STOP_SECONDS,
                secrets=secrets.references,
                log_group=self.log_group,
                region=self._args.region,
            ),
            # All of its task's: a bot that takes more is killed, and its exit code says so.
            "memory": task.memory_mb,
            # A task overrides the command alone, and the provider's begins with `timeout`.
            "entryPoint": ["/usr/bin/env"],
            # As it is without the provider: nothing of a bot.
            "command": ["true"],
        }


def revision(number: float | str) -> str:
    """Return a revision as ECS writes it: the engine hands numbers over as floats."""
    return str(int(number)) if isinstance(number, float) else str(number)
