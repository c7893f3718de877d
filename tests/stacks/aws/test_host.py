"""The dispatcher's service, its database, and the way to it from outside."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import io
import json
import logging
import re
from typing import Any

import pytest

from dispatcher.machines import fleet
from dispatcher.sessions import repository
from dispatcher.settings import LogFormat
from dispatcher.telemetry.logs import JsonLines, TextLines
from stacks.aws.alarms import COUNTED
from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA


def graph(**given: Any) -> Graph:
    return recorded(NO_SCHEMA, functools.partial(described.host, **given))


@pytest.fixture(scope="module")
def plain() -> Graph:
    return graph()


def rules_of(found: Graph, group: str) -> list[tuple[str, int]]:
    """Return who reaches a security group, and at which port."""
    rules = found.of_type("aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule").values()
    return sorted(
        (one.inputs.get("referencedSecurityGroupId") or one.inputs["cidrIpv4"], int(one.inputs["fromPort"]))
        for one in rules
        if one.inputs["securityGroupId"] == f"{group}-id"
    )


def test_openings_are_as_narrow_as_their_use(plain: Graph) -> None:
    assert rules_of(plain, "dispatcher-group") == [("front-group-id", 7860)]
    assert rules_of(plain, "database-group") == [("dispatcher-group-id", 5432)]
    assert rules_of(plain, "network-bots") == []


def test_without_a_domain_the_load_balancer_has_no_public_address(plain: Graph) -> None:
    assert plain.inputs("front-balancer")["internal"] is True
    (origin,) = plain.inputs("front-distribution")["origins"]
    assert origin["vpcOriginConfig"]["vpcOriginId"] == "front-origin-id"
    assert (
        plain.inputs("front-distribution")["defaultCacheBehavior"]["viewerProtocolPolicy"]
        == "redirect-to-https"
    )
    assert plain.result["url"] == "https://front-distribution.recorded.example.com"


def test_domain_without_a_zone_gets_its_records_printed() -> None:
    found = graph(domain="voice.example.com")
    assert found.result["records"] == [
        "_1.recorded.example.com CNAME _2.acm-validations.aws",
        "voice.example.com CNAME front-balancer.recorded.example.com",
    ]
    assert found.of_type("aws:route53/record:Record") == {}
    assert rules_of(found, "front-group") == [("0.0.0.0/0", 80), ("0.0.0.0/0", 443)]


def test_domain_with_a_zone_needs_nothing_of_anybody() -> None:
    found = graph(domain="voice.example.com", zone_id="Z1")
    assert found.result["records"] is None
    assert set(found.of_type("aws:route53/record:Record")) == {"front-name", "front-certificate-proof"}
    assert found.inputs("front-https")["certificateArn"].endswith("front-certificate")
    assert "front-certificate-proof" in found.resources["front-certificate-valid"].dependencies


def test_http_leads_to_https_alone() -> None:
    found = graph(domain="voice.example.com", zone_id="Z1")
    (action,) = found.inputs("front-http")["defaultActions"]
    assert action["redirect"]["statusCode"] == "HTTP_301"


def test_the_store_is_kept_unless_the_stack_is_throw_away(plain: Graph) -> None:
    kept, gone = plain.resources["store"], graph(throwaway=True).resources["store"]
    assert (kept.protected, kept.retained, gone.protected, gone.retained) == (True, True, False, False)
    assert (kept.inputs["finalSnapshotIdentifier"], kept.inputs["skipFinalSnapshot"]) == (
        "switchboard-prod-last",
        False,
    )
    assert gone.inputs["skipFinalSnapshot"] is True
    assert "finalSnapshotIdentifier" not in gone.inputs
    assert kept.inputs["publiclyAccessible"] is False
    assert kept.inputs["storageEncrypted"] is True


def test_no_secret_is_in_the_definition_of_the_dispatchers_task(plain: Graph) -> None:
    (container,) = json.loads(plain.inputs("dispatcher-task")["containerDefinitions"])
    assert [one["name"] for one in container["secrets"]] == [
        "SWITCHBOARD_DATABASE_URL",
        "SWITCHBOARD_SECRETS",
    ]
    assert "hunter2" not in json.dumps(container)
    values = json.loads(plain.inputs("dispatcher-secrets-values")["secretString"])
    assert values["SWITCHBOARD_DATABASE_URL"] == (
        "postgresql://switchboard:hunter2-of-postgres@store.recorded.example.com:5432/switchboard?sslmode=require"
    )


def test_idle_times_are_longer_than_heartbeats() -> None:
    from stacks.aws.front import IDLE_SECONDS, ORIGIN_SECONDS
    from stacks.config import StackConfig

    slowest = max(
        one.le for one in StackConfig.model_fields["heartbeat_seconds"].metadata if hasattr(one, "le")
    )
    assert slowest < IDLE_SECONDS
    assert slowest <= ORIGIN_SECONDS


def test_a_revision_is_rolled_back_where_it_does_not_come_up(plain: Graph) -> None:
    service = plain.inputs("dispatcher-service")
    assert service["deploymentCircuitBreaker"] == {"enable": True, "rollback": True}
    assert (service["deploymentMinimumHealthyPercent"], service["desiredCount"]) == (100, 2)
    assert "front-http" in plain.resources["dispatcher-service"].dependencies


def test_ecs_kills_no_dispatcher_that_still_drains_or_answers(plain: Graph) -> None:
    from dispatcher.commands import SHUTDOWN_SECONDS
    from stacks.config import StackConfig

    (longest_drain,) = [
        one.le for one in StackConfig.model_fields["drain_seconds"].metadata if hasattr(one, "le")
    ]
    (container,) = json.loads(plain.inputs("dispatcher-task")["containerDefinitions"])
    own_work = 15
    assert longest_drain + SHUTDOWN_SECONDS + own_work <= container["stopTimeout"] <= 120


ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


def test_alarms_tell_an_address_only_where_there_is_one(plain: Graph) -> None:
    told = graph(email="ops@example.com")
    assert set(told.of_type(ALARM)) == {
        f"alarms-{name}" for name in ("unhealthy", "errors", "cpu", "failed", "no-machine", "storage")
    }
    assert {tuple(one.inputs["alarmActions"]) for one in told.of_type(ALARM).values()} == {
        ("arn:aws:recorded:::alarms-topic",)
    }
    assert all(not one.inputs.get("alarmActions") for one in plain.of_type(ALARM).values())
    assert "alarms-budget" not in plain.resources
    assert told.inputs("alarms-budget")["costFilters"] == [
        {"name": "TagKeyValue", "values": ["user:stack$prod"]}
    ]


FILTER = "aws:cloudwatch/logMetricFilter:LogMetricFilter"


def test_alarms_of_log_lines_watch_what_their_filters_count(plain: Graph) -> None:
    filters = plain.of_type(FILTER)
    assert len(filters) == len(COUNTED)
    for counted in COUNTED:
        found = filters[f"alarms-{counted.name}-lines"].inputs
        made, alarm = found["metricTransformation"], plain.inputs(f"alarms-{counted.name}")
        assert found["pattern"] == counted.text
        assert (made["namespace"], made["name"]) == (alarm["namespace"], alarm["metricName"])
        assert alarm["statistic"] == "Sum"
        assert alarm["period"] * alarm["evaluationPeriods"] == 300


def lines(form: LogFormat) -> list[str]:
    """Return log lines: a session fails, another ends, a placement gives no machine, a machine is left."""
    # Words of a log call that is changed are to be changed here, and in the filters.
    assert '"session %s: %s → %s%s"' in inspect.getsource(repository)
    assert '"machine %s: placement %s gave none: %s"' in inspect.getsource(fleet)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines("replica") if form == "json" else TextLines())
    for logger, level, words in (
        ("dispatcher.sessions.repository", logging.WARNING, "session s1: starting → failed: no machine"),
        ("dispatcher.sessions.repository", logging.INFO, "session s2: active → ended"),
        ("dispatcher.machines.fleet", logging.WARNING, "machine m-1: placement aws gave none: full"),
        ("dispatcher.machines.fleet", logging.WARNING, "machine m-1: left at aws, and cannot start: full"),
    ):
        handler.emit(logging.LogRecord(logger, level, "", 0, words, None, None))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("form", ["text", "json"])
def test_filters_count_the_dispatchers_own_lines_in_both_formats(form: LogFormat) -> None:
    """By CloudWatch's filter syntax: quoted terms, and comparisons of JSON members joined by `&&`."""
    counts = {}
    for one in COUNTED:
        if form == "text":
            terms = re.findall(r'"([^"]+)"', one.text)
            counts[one.name] = sum(all(term in line for term in terms) for line in lines(form))
        else:
            parts = re.findall(r'\$\.(\w+) = "([^"]+)"', one.json)
            counts[one.name] = sum(
                all(fnmatch.fnmatchcase(json.loads(line)[key], wanted) for key, wanted in parts)
                for line in lines(form)
            )
    assert counts == {"failed": 1, "no-machine": 1}


def test_no_alarm_watches_a_database_that_is_not_the_stacks() -> None:
    found = graph(database=False)
    assert "alarms-storage" not in found.of_type(ALARM)
    assert "store" not in found.resources


def test_the_dashboard_has_a_graph_for_each_alarm(plain: Graph) -> None:
    widgets = json.loads(plain.inputs("alarms-dashboard")["dashboardBody"])["widgets"]
    shown = {one["properties"]["metrics"][0][1] for one in widgets}
    assert {one.inputs["metricName"] for one in plain.of_type(ALARM).values()} <= shown
    places = [(one["x"], one["y"]) for one in widgets]
    assert len(set(places)) == len(places)
