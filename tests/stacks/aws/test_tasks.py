"""Cluster, registry, secrets and task definitions of a placement."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA


def graph(**given: Any) -> Graph:
    return recorded(NO_SCHEMA, functools.partial(described.placement, **given))


@pytest.fixture(scope="module")
def plain() -> Graph:
    return graph()


def container(found: Graph, agent: str) -> dict[str, Any]:
    (only,) = json.loads(found.inputs(f"bots-{agent}-task")["containerDefinitions"])
    return only


def test_a_bots_secrets_are_references_and_its_definition_has_no_value(plain: Graph) -> None:
    (secret,) = container(plain, "echo")["secrets"]
    assert secret == {"name": "ECHO_KEY", "valueFrom": "arn:aws:recorded:::bots-echo-secrets:ECHO_KEY::"}
    holding = {name for name, one in plain.resources.items() if "hunter2" in json.dumps(one.inputs)}
    assert holding == {"bots-echo-secrets-values", "bots-events-connection"}
    assert "theirs" not in "".join(plain.of_type("aws:secretsmanager/secret:Secret"))


def test_a_definition_comes_after_what_it_names(plain: Graph) -> None:
    needed = plain.resources["bots-echo-task"].dependencies
    assert {"bots-execution-policy", "bots-echo-secrets-values"} <= set(needed)


def test_parameters_hold_one_variable_each() -> None:
    found = graph(secret_store="ssm")
    (parameter,) = found.of_type("aws:ssm/parameter:Parameter").values()
    assert (parameter.inputs["name"], parameter.inputs["type"]) == (
        "/switchboard-prod/echo/ECHO_KEY",
        "SecureString",
    )
    policy = json.loads(found.inputs("bots-execution-policy")["policy"])["Statement"]
    assert [one["Action"] for one in policy if one["Sid"] == "ReadParameters"] == [["ssm:GetParameters"]]
    assert found.of_type("aws:secretsmanager/secret:Secret") == {}


def test_lifecycle_removes_only_what_no_definition_can_name(plain: Graph) -> None:
    for name, one in plain.of_type("aws:ecr/lifecyclePolicy:LifecyclePolicy").items():
        rules = json.loads(one.inputs["policy"])["rules"]
        assert [rule["selection"]["tagStatus"] for rule in rules] == ["untagged"], name
    repositories = plain.of_type("aws:ecr/repository:Repository")
    found = {name: one.inputs["imageTagMutability"] for name, one in repositories.items()}
    assert found == {"registry-bot-bots": "IMMUTABLE", "registry-cache": "MUTABLE"}


def test_only_images_in_ecr_are_pulled_with_the_roles_login(plain: Graph) -> None:
    policy = json.loads(plain.inputs("bots-execution-policy")["policy"])["Statement"]
    (pulled,) = (one["Resource"] for one in policy if one["Sid"] == "PullImages")
    assert pulled == ["arn:aws:recorded:::registry-bot-bots"]
