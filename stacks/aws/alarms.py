"""Alarms, a dashboard and a budget, from metrics that AWS has of its own services.

The dispatcher's own metrics are for Prometheus (`/metrics`, docs/operations.md). Neither the ADOT collector
nor the embedded metric format carries them to CloudWatch here: the first is a container beside each
dispatcher, the second a log line for each sample, and each of their 100 series and more costs $0.30 a month.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

LEAST_STORAGE_BYTES = 2 * 1024**3
"""Free storage of the database below which an alarm is raised. RDS enlarges the storage before that."""


@dataclass(frozen=True)
class Watched:
    """A metric, and when it is bad."""

    name: str
    description: str
    namespace: str
    metric: str
    dimensions: Mapping[str, pulumi.Input[str]]
    statistic: str
    comparison: str
    threshold: float
    minutes: int


@dataclass(frozen=True)
class AlarmsArgs:
    prefix: str
    region: str
    balancer: pulumi.Input[str]
    """The load balancer's ARN suffix."""
    targets: pulumi.Input[str]
    """The target group's ARN suffix."""
    cluster: pulumi.Input[str]
    service: pulumi.Input[str]
    database: pulumi.Input[str] | None
    """Identifier of the RDS instance."""
    email: str
    """Address that gets alarms; empty: they are shown in CloudWatch alone."""
    budget_usd: int
    """Monthly cost at which the address is told; 0: no budget."""
    tags: Mapping[str, str]


def watched(args: AlarmsArgs) -> Sequence[Watched]:
    """Return what is watched."""
    behind = {"LoadBalancer": args.balancer, "TargetGroup": args.targets}
    service = {"ClusterName": args.cluster, "ServiceName": args.service}
    found = [
        Watched(
            "unhealthy",
            "A dispatcher is not ready: see its log",
            *("AWS/ApplicationELB", "UnHealthyHostCount", behind),
            *("Maximum", "GreaterThanThreshold", 0, 5),
        ),
        Watched(
            "errors",
            "The dispatcher answers with errors of its own: see its log",
            *("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", behind),
            *("Sum", "GreaterThanThreshold", 5, 5),
        ),
        Watched(
            "cpu",
            "The dispatcher is short of CPU: raise aws.dispatcherCpu or aws.dispatchers",
            *("AWS/ECS", "CPUUtilization", service),
            *("Average", "GreaterThanThreshold", 80, 10),
        ),
    ]
    if args.database is not None:
        found.append(
            Watched(
                "storage",
                "The database has almost no space left, and did not get more",
                *("AWS/RDS", "FreeStorageSpace", {"DBInstanceIdentifier": args.database}),
                *("Minimum", "LessThanThreshold", LEAST_STORAGE_BYTES, 5),
            )
        )
    return found


class Alarms(pulumi.ComponentResource):
    """The stack's alarms, with who is told, and its dashboard."""

    def __init__(self, name: str, args: AlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Alarms", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        actions: list[pulumi.Input[str]] = []
        if args.email:
            topic = aws.sns.Topic(f"{name}-topic", name=f"{args.prefix}-alarms", tags=args.tags, opts=within)
            aws.sns.TopicSubscription(
                f"{name}-email", topic=topic.arn, protocol="email", endpoint=args.email, opts=within
            )
            actions = [topic.arn]
        for one in watched(args):
            aws.cloudwatch.MetricAlarm(
                f"{name}-{one.name}",
                name=f"{args.prefix}-{one.name}",
                alarm_description=one.description,
                namespace=one.namespace,
                metric_name=one.metric,
                dimensions=one.dimensions,
                statistic=one.statistic,
                comparison_operator=one.comparison,
                threshold=one.threshold,
                period=60,
                evaluation_periods=one.minutes,
                datapoints_to_alarm=one.minutes,
                # A load balancer without a request has no data, and nothing is wrong.
                treat_missing_data="notBreaching",
                alarm_actions=actions,
                ok_actions=actions,
                tags=args.tags,
                opts=within,
            )
        aws.cloudwatch.Dashboard(
            f"{name}-dashboard",
            dashboard_name=args.prefix,
            dashboard_body=pulumi.Output.json_dumps(dashboard(args), sort_keys=True),
            opts=within,
        )
        if args.budget_usd:
            self._budget(name, args, within)
        self.register_outputs({})

    def _budget(self, name: str, args: AlarmsArgs, within: pulumi.ResourceOptions) -> None:
        aws.budgets.Budget(
            f"{name}-budget",
            name=args.prefix,
            budget_type="COST",
            limit_amount=f"{args.budget_usd}.0",
            limit_unit="USD",
            time_unit="MONTHLY",
            # The tag must be activated for cost allocation in the account's billing settings.
            cost_filters=[
                aws.budgets.BudgetCostFilterArgs(
                    name="TagKeyValue", values=[f"user:stack${args.tags['stack']}"]
                )
            ],
            notifications=[
                aws.budgets.BudgetNotificationArgs(
                    comparison_operator="GREATER_THAN",
                    threshold=percent,
                    threshold_type="PERCENTAGE",
                    notification_type=kind,
                    subscriber_email_addresses=[args.email],
                )
                for percent, kind in ((80, "ACTUAL"), (100, "FORECASTED"))
            ],
            tags=args.tags,
            opts=within,
        )


def dashboard(args: AlarmsArgs) -> dict[str, Any]:
    """Return the dashboard's body: a graph for each alarm's metric, and calls a minute."""
    graphs = [
        (one.description, one.namespace, one.metric, one.dimensions, one.statistic) for one in watched(args)
    ]
    behind = {"LoadBalancer": args.balancer, "TargetGroup": args.targets}
    graphs += [
        ("Requests to the dispatcher", "AWS/ApplicationELB", "RequestCount", behind, "Sum"),
        ("Seconds to an answer (p95)", "AWS/ApplicationELB", "TargetResponseTime", behind, "p95"),
    ]
    widgets = []
    for number, (title, namespace, metric, dimensions, statistic) in enumerate(graphs):
        place = [part for pair in dimensions.items() for part in pair]
        widgets.append(
            {
                "type": "metric",
                "x": number % 2 * 12,
                "y": number // 2 * 6,
                "width": 12,
                "height": 6,
                "properties": {
                    "title": title,
                    "region": args.region,
                    "metrics": [[namespace, metric, *place, {"stat": statistic}]],
                    "period": 60,
                },
            }
        )
    return {"widgets": widgets}
