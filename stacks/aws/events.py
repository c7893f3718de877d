"""Ends of bots' tasks, which EventBridge tells the dispatcher: it asks about them at once.

An event is a hint. One that is lost is made good by the channel that breaks and by the dispatcher's own
asking, so there is no queue of those that were not delivered: EventBridge tries for some minutes, and an
older one would tell nothing new.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from stacks.aws import permissions

KEY_HEADER = "x-switchboard-key"
PATH = "/webhooks/machines/ecs"
# The dispatcher's words for both, `dispatcher.machines.ecs.events` and `dispatcher.api.webhooks`; a test
# sends an event as this stack makes it.

EVENTS_VARIABLE = "SWITCHBOARD_ECS_EVENTS_KEY"

LONGEST_TRY_SECONDS = 300
"""Age at which EventBridge gives an event up; it takes 60 to 86,400."""

MOST_TRIES = 10

MOST_PER_SECOND = 50
"""Calls of the dispatcher; EventBridge holds back what is above. Fargate starts 20 tasks a second."""


@dataclass(frozen=True)
class TaskEventsArgs:
    prefix: str
    """First part of the names."""
    cluster: pulumi.Input[str]
    """ARN of the bots' cluster."""
    url: pulumi.Input[str]
    """The dispatcher's public URL."""
    key: pulumi.Input[str]
    """Secret that the dispatcher knows the events by."""
    tags: Mapping[str, str]


class TaskEvents(pulumi.ComponentResource):
    """A rule for the ends of a cluster's tasks, and the API destination that they go to."""

    def __init__(self, name: str, args: TaskEventsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:TaskEvents", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        connection = aws.cloudwatch.EventConnection(
            f"{name}-connection",
            name=f"{args.prefix}-events",
            description="Switchboard: the key of the dispatcher's webhook",
            authorization_type="API_KEY",
            auth_parameters=aws.cloudwatch.EventConnectionAuthParametersArgs(
                api_key=aws.cloudwatch.EventConnectionAuthParametersApiKeyArgs(
                    key=KEY_HEADER, value=pulumi.Output.secret(args.key)
                )
            ),
            opts=within,
        )
        destination = aws.cloudwatch.EventApiDestination(
            f"{name}-destination",
            name=f"{args.prefix}-events",
            description="Switchboard: the dispatcher's webhook of tasks",
            connection_arn=connection.arn,
            http_method="POST",
            invocation_endpoint=pulumi.Output.concat(args.url, PATH),
            invocation_rate_limit_per_second=MOST_PER_SECOND,
            opts=within,
        )
        rule = aws.cloudwatch.EventRule(
            f"{name}-rule",
            name=f"{args.prefix}-events",
            description="Switchboard: a bot's task has ended",
            event_pattern=pulumi.Output.from_input(args.cluster).apply(pattern),
            tags=args.tags,
            opts=within,
        )
        role = aws.iam.Role(
            f"{name}-role",
            name=f"{args.prefix}-events",
            description=f"Switchboard {args.prefix}: EventBridge calls the dispatcher's webhook with it",
            assume_role_policy=permissions.trust(permissions.EVENTS, source=rule.arn),
            tags=args.tags,
            opts=within,
        )
        policy = aws.iam.RolePolicy(
            f"{name}-policy",
            role=role.id,
            policy=permissions.document(permissions.delivers_events(destination.arn)),
            opts=within,
        )
        aws.cloudwatch.EventTarget(
            f"{name}-target",
            rule=rule.name,
            target_id="dispatcher",
            arn=destination.arn,
            role_arn=role.arn,
            retry_policy=aws.cloudwatch.EventTargetRetryPolicyArgs(
                maximum_event_age_in_seconds=LONGEST_TRY_SECONDS, maximum_retry_attempts=MOST_TRIES
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy]),
        )
        self.register_outputs({})


def pattern(cluster: str) -> str:
    """Return the pattern of the events, as EventBridge has it."""
    return json.dumps(
        {
            "source": ["aws.ecs"],
            "detail-type": ["ECS Task State Change"],
            "detail": {"clusterArn": [cluster], "lastStatus": ["STOPPED"]},
        },
        sort_keys=True,
    )
