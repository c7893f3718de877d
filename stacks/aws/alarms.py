"""Alarms, a dashboard and a budget, from metrics of AWS's own services and from the dispatcher's log.

Of the dispatcher's own metrics, which are for Prometheus (`/metrics`, docs/operations.md), two are here:
sessions that failed, and placements that gave no machine. CloudWatch counts their log lines. Neither the ADOT
collector nor the embedded metric format carries the others: the first is a container beside each dispatcher,
and both make a series of each label value, each for $0.30 a month; there are 100 and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws

from dispatcher.settings import LogFormat

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
    """For which it must be bad in each period."""
    period: int = 60
    """Seconds of which the statistic is."""


@dataclass(frozen=True)
class Counted:
    """A metric that counts lines of the dispatcher's log."""

    name: str
    metric: str
    description: str
    text: str
    """Filter pattern of log lines that are text."""
    json: str
    """Filter pattern of log lines that are JSON."""
    threshold: float
    """Lines within five minutes above which it is bad."""


COUNTED = (
    Counted(
        "failed",
        "SessionsFailed",
        "More than 3 sessions failed within 5 minutes: see the dispatcher's log",
        '"WARNING dispatcher.sessions.repository: session"',
        '{ $.logger = "dispatcher.sessions.repository" && $.level = "WARNING" }',
        3,
    ),
    Counted(
        "no-machine",
        "PlacementGaveNone",
        "A placement gave no machine: raise its quota, or add a placement; see the dispatcher's log",
        '"WARNING dispatcher.machines.fleet: machine" "gave none"',
        '{ $.logger = "dispatcher.machines.fleet" && $.message = "*gave none*" }',
        0,
    ),
)


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
    log_group: pulumi.Input[str]
    """Name of the dispatcher's log group."""
    log_format: LogFormat
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
    found += [
        Watched(
            one.name,
            one.description,
            *(args.prefix, one.metric, {}),
            *("Sum", "GreaterThanThreshold", one.threshold, 5),
            period=300,
        )
        for one in COUNTED
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
        for one in COUNTED:
            aws.cloudwatch.LogMetricFilter(
                f"{name}-{one.name}-lines",
                name=f"{args.prefix}-{one.name}",
                log_group_name=args.log_group,
                pattern=one.json if args.log_format == "json" else one.text,
                metric_transformation=aws.cloudwatch.LogMetricFilterMetricTransformationArgs(
                    name=one.metric, namespace=args.prefix, value="1", default_value="0"
                ),
                opts=within,
            )
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
                period=one.period,
                evaluation_periods=one.minutes * 60 // one.period,
                datapoints_to_alarm=one.minutes * 60 // one.period,
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
