"""Parts of a Fargate task, for bots and for the dispatcher: cluster, log group, roles, definition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_aws as aws

from stacks.aws import permissions
from stacks.aws.config import Architecture

LOG_BUFFER = "4m"
"""Buffer of the awslogs driver in its non-blocking mode. In the other mode a process stops in the middle of a
word while CloudWatch does not answer."""


def cluster(name: str, called: str, tags: Mapping[str, str], opts: pulumi.ResourceOptions) -> aws.ecs.Cluster:
    """Describe a cluster of this name."""
    return aws.ecs.Cluster(
        name,
        name=called,
        # Container Insights costs more for each task than a short call does; the metrics are ours.
        settings=[aws.ecs.ClusterSettingArgs(name="containerInsights", value="disabled")],
        tags=tags,
        opts=opts,
    )


def role(
    name: str, called: str, description: str, tags: Mapping[str, str], opts: pulumi.ResourceOptions
) -> aws.iam.Role:
    """Describe a role of this name that only ECS may give to tasks."""
    return aws.iam.Role(
        name,
        name=called,
        description=description,
        assume_role_policy=permissions.trust(),
        tags=tags,
        opts=opts,
    )


def definition(
    name: str,
    *,
    family: str,
    cpu_units: int,
    memory_mb: int,
    architecture: Architecture,
    execution: aws.iam.Role,
    task: aws.iam.Role,
    container: Mapping[str, Any],
    tags: Mapping[str, str],
    opts: pulumi.ResourceOptions,
) -> aws.ecs.TaskDefinition:
    """Describe the definition of tasks with one container.

    Args:
        execution: Role that ECS starts the container with.
        task: Role of the container's own.
    """
    return aws.ecs.TaskDefinition(
        name,
        family=family,
        requires_compatibilities=["FARGATE"],
        network_mode="awsvpc",
        cpu=str(cpu_units),
        memory=str(memory_mb),
        execution_role_arn=execution.arn,
        task_role_arn=task.arn,
        runtime_platform=aws.ecs.TaskDefinitionRuntimePlatformArgs(
            operating_system_family="LINUX", cpu_architecture=architecture
        ),
        container_definitions=pulumi.Output.json_dumps([container], sort_keys=True),
        tags=tags,
        opts=opts,
    )


def container(
    name: str,
    *,
    image: pulumi.Input[str],
    stop_seconds: int,
    secrets: Mapping[str, pulumi.Input[str]],
    log_group: aws.cloudwatch.LogGroup,
    region: str,
) -> dict[str, Any]:
    """Return a task's one container, as ECS has it.

    Args:
        stop_seconds: Time between SIGTERM and SIGKILL; Fargate allows 120.
        secrets: Variable → ARN of its value.
    """
    return {
        "name": name,
        "image": image,
        "essential": True,
        "stopTimeout": stop_seconds,
        # Reaps what a process leaves behind, and hands it its SIGTERM.
        "linuxParameters": {"initProcessEnabled": True},
        "secrets": [{"name": variable, "valueFrom": where} for variable, where in secrets.items()],
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": log_group.name,
                "awslogs-region": region,
                "awslogs-stream-prefix": name,
                "mode": "non-blocking",
                "max-buffer-size": LOG_BUFFER,
            },
        },
    }


def log_group(
    name: str, called: str, days: int, tags: Mapping[str, str], opts: pulumi.ResourceOptions
) -> aws.cloudwatch.LogGroup:
    """Describe a log group that keeps lines for so many days."""
    return aws.cloudwatch.LogGroup(name, name=called, retention_in_days=days, tags=tags, opts=opts)
