"""The dispatcher's permissions, evaluated: what its own bots need, and nothing of another stack's."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from stacks.aws.permissions import partition
from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA
from tests.stacks.aws.policies import Request, allows

ACCOUNT = "arn:aws:ecs:us-east-1:123456789012"
OURS, THEIRS = "switchboard-prod", "switchboard-dev"


@pytest.fixture(scope="module")
def ours() -> list[dict[str, Any]]:
    return recorded(NO_SCHEMA, functools.partial(described.starts_bots, ACCOUNT, OURS)).result


def of(prefix: str, **context: str) -> dict[str, str]:
    return {"ecs:cluster": f"{ACCOUNT}:cluster/{prefix}", **context}


PASSED = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


def role(prefix: str, name: str) -> str:
    return f"arn:aws:iam::123456789012:role/{prefix}-{name}"


@pytest.mark.parametrize(
    "request_",
    [
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{OURS}-echo:7", of(OURS)),
        Request(
            "ecs:RunTask",
            f"{ACCOUNT}:task-definition/{OURS}-voice:1",
            of(OURS, **{"ecs:enable-execute-command": "false"}),
        ),
        Request("ecs:DescribeTasks", f"{ACCOUNT}:task/{OURS}/0123", of(OURS)),
        Request("ecs:StopTask", f"{ACCOUNT}:task/{OURS}/0123", of(OURS)),
        Request("ecs:ListTasks", "*", of(OURS)),
        Request("ecs:TagResource", f"{ACCOUNT}:task/{OURS}/0123", {"ecs:CreateAction": "RunTask"}),
        Request("iam:PassRole", role(OURS, "execution"), PASSED),
        Request("iam:PassRole", role(OURS, "task"), PASSED),
    ],
)
def test_dispatcher_may_do_what_its_bots_need(ours: list[dict[str, Any]], request_: Request) -> None:
    assert allows(ours, request_)


@pytest.mark.parametrize(
    "request_",
    [
        # Another stack's tasks, families and roles, in its own cluster or in ours.
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{THEIRS}-echo:7", of(THEIRS)),
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{THEIRS}-echo:7", of(OURS)),
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{OURS}-echo:7", of(THEIRS)),
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{OURS}-echo-2:7", of(OURS)),
        Request("ecs:RunTask", f"{ACCOUNT}:task-definition/{OURS}-echo:7", {}),
        Request("ecs:StopTask", f"{ACCOUNT}:task/{THEIRS}/0123", of(THEIRS)),
        Request("ecs:StopTask", f"{ACCOUNT}:task/{OURS}-2/0123", of(f"{OURS}-2")),
        Request("ecs:DescribeTasks", f"{ACCOUNT}:task/{THEIRS}/0123", of(THEIRS)),
        Request("ecs:ListTasks", "*", of(THEIRS)),
        Request("ecs:TagResource", f"{ACCOUNT}:task/{THEIRS}/0123", {"ecs:CreateAction": "RunTask"}),
        # Of a task that runs already.
        Request("ecs:TagResource", f"{ACCOUNT}:task/{OURS}/0123", {}),
        Request("iam:PassRole", role(THEIRS, "execution"), PASSED),
        # Its own roles, to another service; a shell in a bot; the definitions of tasks.
        Request("iam:PassRole", role(OURS, "task"), {"iam:PassedToService": "ec2.amazonaws.com"}),
        Request(
            "ecs:RunTask",
            f"{ACCOUNT}:task-definition/{OURS}-echo:7",
            of(OURS, **{"ecs:enable-execute-command": "true"}),
        ),
        Request("ecs:ExecuteCommand", f"{ACCOUNT}:task/{OURS}/0123", of(OURS)),
        Request("ecs:RegisterTaskDefinition", "*", {}),
        Request("ecs:UpdateService", f"{ACCOUNT}:service/{OURS}/dispatcher", of(OURS)),
        Request(
            "secretsmanager:GetSecretValue", "arn:aws:secretsmanager:us-east-1:123456789012:secret:x", {}
        ),
    ],
)
def test_dispatcher_may_do_nothing_else(ours: list[dict[str, Any]], request_: Request) -> None:
    assert not allows(ours, request_)


def test_an_operator_that_is_not_evaluated_fails() -> None:
    strange = {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {"IpAddress": {"a": "b"}}}
    with pytest.raises(AssertionError, match="IpAddress"):
        allows([strange], Request("a", "b", {"a": "b"}))


def test_arns_of_regions_outside_the_standard_partition() -> None:
    assert [partition(one) for one in ("eu-central-1", "cn-north-1", "us-gov-west-1")] == [
        "aws",
        "aws-cn",
        "aws-us-gov",
    ]


@pytest.fixture(scope="module")
def placement() -> Graph:
    return recorded(NO_SCHEMA, described.placement)


def test_each_statement_has_its_reason_and_no_wildcard_but_where_iam_wants_one(placement: Graph) -> None:
    written = json.loads(placement.inputs("bots-execution-policy")["policy"])["Statement"]
    everything = [
        one["Sid"] for one in [*written, *placement.result["statements"]] if one["Resource"] == ["*"]
    ]
    assert everything == ["LogInToRegistry", "ListBotsBots"]
    assert not any("*" in action for one in written for action in one["Action"])


def test_eventbridge_may_call_one_destination_for_one_rule(placement: Graph) -> None:
    (statement,) = json.loads(placement.inputs("bots-events-policy")["policy"])["Statement"]
    assert statement["Action"] == ["events:InvokeApiDestination"]
    assert statement["Resource"] == ["arn:aws:recorded:::bots-events-destination"]
    (trusted,) = json.loads(placement.inputs("bots-events-role")["assumeRolePolicy"])["Statement"]
    assert trusted["Principal"] == {"Service": "events.amazonaws.com"}
    assert trusted["Condition"] == {"ArnEquals": {"aws:SourceArn": "arn:aws:recorded:::bots-events-rule"}}


def test_a_bots_own_role_may_do_nothing(placement: Graph) -> None:
    policies = placement.of_type("aws:iam/rolePolicy:RolePolicy")
    assert "bots-task-role-id" not in [one.inputs["role"] for one in policies.values()]
    role_ = placement.inputs("bots-task-role")
    assert not role_.get("managedPolicyArns")
    assert not role_.get("inlinePolicies")
    trusted = json.loads(role_["assumeRolePolicy"])["Statement"]
    assert [one["Principal"] for one in trusted] == [{"Service": "ecs-tasks.amazonaws.com"}]
