"""Every permission that a stack grants at AWS: a statement each, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi

Resource = pulumi.Input[str]

ECS_TASKS = "ecs-tasks.amazonaws.com"
EVENTS = "events.amazonaws.com"


@dataclass(frozen=True)
class Statement:
    """One statement of a policy, which allows."""

    sid: str
    actions: Sequence[str]
    resources: Sequence[Resource]
    reason: str
    conditions: Mapping[str, Mapping[str, pulumi.Input[Any]]] = field(default_factory=dict)
    """Operator → key → value."""

    def written(self) -> dict[str, Any]:
        """Return the statement as IAM has it."""
        made = {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": list(self.actions),
            "Resource": list(self.resources),
        }
        return {**made, "Condition": self.conditions} if self.conditions else made


def document(statements: Sequence[Statement | Mapping[str, Any]]) -> pulumi.Output[str]:
    """Return the policy's JSON. A mapping is a statement as IAM has it."""
    written = [one.written() if isinstance(one, Statement) else dict(one) for one in statements]
    policy = {"Version": "2012-10-17", "Statement": written}
    return pulumi.Output.json_dumps(policy, sort_keys=True)


def trust(service: str = ECS_TASKS, source: pulumi.Input[str] | None = None) -> pulumi.Output[str]:
    """Return the policy of a role that only this service may assume.

    Args:
        source: ARN of the one resource on whose behalf it may.
    """
    statement: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if source is not None:
        statement["Condition"] = {"ArnEquals": {"aws:SourceArn": source}}
    return pulumi.Output.json_dumps({"Version": "2012-10-17", "Statement": [statement]}, sort_keys=True)


def partition(region: str) -> str:
    """Return the first part of ARNs of a region."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def starts_bots(
    region: str,
    cluster_name: pulumi.Input[str],
    cluster_arn: pulumi.Input[str],
    families: Sequence[pulumi.Input[str]],
    roles: Sequence[pulumi.Input[str]],
    suffix: str = "",
) -> list[Statement]:
    """Return what a dispatcher may do in one placement.

    Args:
        families: ARNs of the agents' task definitions, without their revisions.
        roles: ARNs of the roles that a bot's task has.
        suffix: Tells the statements of several placements apart.
    """
    here = {"ArnEquals": {"ecs:cluster": cluster_arn}}
    tasks = pulumi.Output.concat(f"arn:{partition(region)}:ecs:{region}:*:task/", cluster_name, "/*")
    return [
        Statement(
            f"StartBots{suffix}",
            ["ecs:RunTask"],
            [pulumi.Output.concat(family, ":*") for family in families],
            "A session's bot is a task of one of these families in this cluster. Nobody gets a shell in it.",
            {**here, "BoolIfExists": {"ecs:enable-execute-command": "false"}},
        ),
        Statement(
            f"SeeAndEndBots{suffix}",
            ["ecs:DescribeTasks", "ecs:StopTask"],
            [tasks],
            "A bot that has not reported is asked about, and one that should be gone is stopped.",
            here,
        ),
        Statement(
            f"ListBots{suffix}",
            ["ecs:ListTasks"],
            # Its resource is a container instance, which Fargate has none of: the condition limits it.
            ["*"],
            "The orphan scan compares sessions with the tasks that there are.",
            here,
        ),
        Statement(
            f"TagBots{suffix}",
            ["ecs:TagResource"],
            [tasks],
            "RunTask gives a task the tags of its definition, by which a budget counts it; no other.",
            # `ecs:cluster` is no condition key of this action: the resource's ARN has the cluster.
            {"StringEquals": {"ecs:CreateAction": "RunTask"}},
        ),
        Statement(
            f"PassBotsRoles{suffix}",
            ["iam:PassRole"],
            list(roles),
            "RunTask gives a task the roles of its definition.",
            {"StringEquals": {"iam:PassedToService": ECS_TASKS}},
        ),
    ]


def delivers_events(destination: pulumi.Input[str]) -> list[Statement]:
    """Return what EventBridge may do to deliver events to an API destination, by its ARN."""
    return [
        Statement(
            "CallDispatcher",
            ["events:InvokeApiDestination"],
            [destination],
            "A rule calls its API destination with the permissions of the target's role.",
        )
    ]


def starts_containers(
    repositories: Sequence[pulumi.Input[str]],
    log_groups: Sequence[pulumi.Input[str]],
    secrets: Sequence[pulumi.Input[str]] = (),
    parameters: Sequence[pulumi.Input[str]] = (),
) -> list[Statement]:
    """Return what ECS may do to start a container: the execution role's, which no container has.

    Args:
        repositories: ARNs in ECR.
        log_groups: ARNs in CloudWatch Logs.
        secrets: ARNs in Secrets Manager.
        parameters: ARNs in SSM.
    """
    found = [
        Statement(
            "WriteLogs",
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [pulumi.Output.concat(group, ":*") for group in log_groups],
            "The awslogs driver writes the container's output.",
        )
    ]
    if repositories:
        found += [
            Statement(
                "LogInToRegistry",
                ["ecr:GetAuthorizationToken"],
                ["*"],
                "ECR gives one login for all repositories; the next statement says which may be read.",
            ),
            Statement(
                "PullImages",
                ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
                list(repositories),
                "Fargate pulls the image for each task anew.",
            ),
        ]
    if secrets:
        found.append(
            Statement(
                "ReadSecrets",
                ["secretsmanager:GetSecretValue"],
                list(secrets),
                "ECS puts them into the container's environment; the task definition has their ARNs alone.",
            )
        )
    if parameters:
        found.append(
            Statement(
                "ReadParameters",
                ["ssm:GetParameters"],
                list(parameters),
                "ECS puts them into the container's environment; the task definition has their ARNs alone.",
            )
        )
    return found
