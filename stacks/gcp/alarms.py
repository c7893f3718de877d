"""Alerts and a dashboard in Cloud Monitoring, from logs and from metrics that Google has of its own services.

The dispatcher's own metrics are for Prometheus (`/metrics`, docs/operations.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_gcp as gcp

LEAST_PAUSE = "3600s"
"""Between two notices of a log-based alert. Google demands a limit."""

CLOSED_AFTER = "1800s"
"""Time without bad data after which Google closes an alert; the least."""


@dataclass(frozen=True)
class Watched:
    """A metric, and when it is bad."""

    name: str
    title: str
    filter: str
    aligner: str
    """Makes one value a minute of a time series."""
    reducer: str
    """Makes one time series of several."""
    threshold: float
    minutes: int


@dataclass(frozen=True)
class AlarmsArgs:
    prefix: str
    project: str
    service: str
    """Name of the Cloud Run service."""
    database: pulumi.Input[str] | None
    """Name of the Cloud SQL instance."""
    email: str
    """Address that gets alerts; empty: Cloud Monitoring alone shows them."""
    labels: Mapping[str, str]


def watched(args: AlarmsArgs, database: str = "") -> Sequence[Watched]:
    """Return the metrics that are watched."""
    service = f'resource.type = "cloud_run_revision" AND resource.labels.service_name = "{args.service}"'
    found = [
        Watched(
            "errors",
            "The dispatcher answers with errors of its own: see its log",
            f'{service} AND metric.type = "run.googleapis.com/request_count" AND '
            'metric.labels.response_code_class = "5xx"',
            *("ALIGN_DELTA", "REDUCE_SUM", 5, 5),
        ),
        Watched(
            "cpu",
            "The dispatcher is short of CPU: raise gcp.dispatcherCpu or gcp.dispatchers",
            f'{service} AND metric.type = "run.googleapis.com/container/cpu/utilizations"',
            *("ALIGN_PERCENTILE_99", "REDUCE_MAX", 0.8, 10),
        ),
        Watched(
            "memory",
            "The dispatcher is short of memory: raise gcp.dispatcherMemoryMb",
            f'{service} AND metric.type = "run.googleapis.com/container/memory/utilizations"',
            *("ALIGN_PERCENTILE_99", "REDUCE_MAX", 0.9, 10),
        ),
    ]
    if database:
        found.append(
            Watched(
                "storage",
                "The database has almost no space left, and did not get more",
                'resource.type = "cloudsql_database" AND '
                f'resource.labels.database_id = "{args.project}:{database}" AND '
                'metric.type = "cloudsql.googleapis.com/database/disk/utilization"',
                *("ALIGN_MEAN", "REDUCE_MAX", 0.9, 10),
            )
        )
    return found


def logged(args: AlarmsArgs) -> str:
    """Return the filter of log lines that somebody must read."""
    return (
        f'resource.type = "cloud_run_revision" AND resource.labels.service_name = "{args.service}" AND '
        "severity >= ERROR"
    )


class Alarms(pulumi.ComponentResource):
    """The stack's alerts, with who is told, and its dashboard."""

    def __init__(self, name: str, args: AlarmsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Alarms", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        self._channels: list[pulumi.Input[str]] = []
        if args.email:
            channel = gcp.monitoring.NotificationChannel(
                f"{name}-email",
                project=args.project,
                type="email",
                display_name=f"Switchboard {args.prefix}",
                labels={"email_address": args.email},
                user_labels=args.labels,
                opts=self._within,
            )
            self._channels = [channel.name]
        database = pulumi.Output.from_input(args.database or "")
        for index, one in enumerate(watched(args, "unknown" if args.database is not None else "")):
            self._threshold(one, database.apply(lambda known, at=index: watched(args, known)[at].filter))
        self._log()
        gcp.monitoring.Dashboard(
            f"{name}-dashboard",
            project=args.project,
            dashboard_json=database.apply(lambda known: dashboard(args, known)).apply(
                pulumi.Output.json_dumps
            ),
            opts=self._within,
        )
        self.register_outputs({})

    def _threshold(self, one: Watched, filter_: pulumi.Output[str]) -> None:
        monitoring = gcp.monitoring
        condition = monitoring.AlertPolicyConditionConditionThresholdArgs(
            filter=filter_,
            comparison="COMPARISON_GT",
            threshold_value=one.threshold,
            duration=f"{one.minutes * 60}s",
            aggregations=[
                monitoring.AlertPolicyConditionConditionThresholdAggregationArgs(
                    alignment_period="60s",
                    per_series_aligner=one.aligner,
                    cross_series_reducer=one.reducer,
                )
            ],
        )
        self._policy(
            one.name,
            one.title,
            monitoring.AlertPolicyConditionArgs(display_name=one.name, condition_threshold=condition),
            monitoring.AlertPolicyAlertStrategyArgs(auto_close=CLOSED_AFTER),
        )

    def _log(self) -> None:
        monitoring = gcp.monitoring
        condition = monitoring.AlertPolicyConditionConditionMatchedLogArgs(filter=logged(self._args))
        self._policy(
            "log",
            "The dispatcher logs an error: see its log",
            monitoring.AlertPolicyConditionArgs(display_name="log", condition_matched_log=condition),
            monitoring.AlertPolicyAlertStrategyArgs(
                auto_close=CLOSED_AFTER,
                notification_rate_limit=monitoring.AlertPolicyAlertStrategyNotificationRateLimitArgs(
                    period=LEAST_PAUSE
                ),
            ),
        )

    def _policy(
        self,
        part: str,
        title: str,
        condition: gcp.monitoring.AlertPolicyConditionArgs,
        strategy: gcp.monitoring.AlertPolicyAlertStrategyArgs,
    ) -> None:
        gcp.monitoring.AlertPolicy(
            f"{self._name}-{part}",
            project=self._args.project,
            display_name=f"{self._args.prefix}: {title}",
            combiner="OR",
            conditions=[condition],
            alert_strategy=strategy,
            notification_channels=self._channels,
            user_labels=self._args.labels,
            opts=self._within,
        )


def dashboard(args: AlarmsArgs, database: str) -> dict[str, Any]:
    """Return the dashboard: a graph for each metric that is watched, and requests with their latency."""
    service = f'resource.type = "cloud_run_revision" AND resource.labels.service_name = "{args.service}"'
    graphs = [(one.title, one.filter, one.aligner, one.reducer) for one in watched(args, database)]
    graphs += [
        (
            "Requests to the dispatcher",
            f'{service} AND metric.type = "run.googleapis.com/request_count"',
            *("ALIGN_DELTA", "REDUCE_SUM"),
        ),
        (
            "Milliseconds to an answer (p95)",
            f'{service} AND metric.type = "run.googleapis.com/request_latencies"',
            *("ALIGN_PERCENTILE_95", "REDUCE_MAX"),
        ),
    ]
    tiles = []
    for number, (title, filter_, aligner, reducer) in enumerate(graphs):
        query = {
            "timeSeriesFilter": {
                "filter": filter_,
                "aggregation": {
                    "alignmentPeriod": "60s",
                    "perSeriesAligner": aligner,
                    "crossSeriesReducer": reducer,
                },
            }
        }
        tiles.append(
            {
                "xPos": number % 2 * 24,
                "yPos": number // 2 * 16,
                "width": 24,
                "height": 16,
                "widget": {
                    "title": title,
                    "xyChart": {"dataSets": [{"plotType": "LINE", "timeSeriesQuery": query}]},
                },
            }
        )
    return {"displayName": args.prefix, "mosaicLayout": {"columns": 48, "tiles": tiles}}
