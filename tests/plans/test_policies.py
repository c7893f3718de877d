"""Policies: the stacks of the repository keep them, and each catches a stack that does not."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from stacks.errors import ConfigError
from stacks.plan.graph import Graph, Resource
from stacks.plan.policies import POLICIES, Facts, violations
from stacks.plan.recording import record, reviews_of
from stacks.plan.review import Grant
from tests.forked import run_forked
from tests.plans.stacks import ECHO, KEY, SECONDS, VARIANTS, rendered_with, variant_of

Verdicts = dict[str, list[tuple[str, str]]]
Change = Callable[[Resource], Resource]


def with_inputs(**given: Any) -> Change:
    return lambda one: replace(one, inputs={**one.inputs, **given})


def with_statement(**given: Any) -> Change:
    def change(one: Resource) -> Resource:
        policy = json.loads(one.inputs["policy"])
        policy["Statement"].append({"Sid": "Extra", "Effect": "Allow", **given})
        return replace(one, inputs={**one.inputs, "policy": json.dumps(policy)})

    return change


def with_container(**given: Any) -> Change:
    def change(one: Resource) -> Resource:
        (container,) = json.loads(one.inputs["containerDefinitions"])
        return replace(
            one, inputs={**one.inputs, "containerDefinitions": json.dumps([{**container, **given}])}
        )

    return change


def with_every_protocol(one: Resource) -> Resource:
    rest = {name: value for name, value in one.inputs.items() if name not in ("fromPort", "toPort")}
    return replace(one, inputs={**rest, "ipProtocol": "-1", "cidrIpv4": "0.0.0.0/0"})


def inline(**given: Any) -> dict[str, Any]:
    """Return a rule as a program writes it inside a security group: the dispatcher's port, unless told."""
    return {"protocol": "tcp", "fromPort": 7860, "toPort": 7860, "description": "Callers", **given}


def as_older_rule(one: Resource) -> Resource:
    inputs = {
        **inline(type="ingress", cidrBlocks=["0.0.0.0/0"]),
        "securityGroupId": one.inputs["securityGroupId"],
    }
    return replace(one, type="aws:ec2/securityGroupRule:SecurityGroupRule", inputs=inputs)


def policy(action: str, resource: str) -> str:
    return json.dumps({"Statement": {"Effect": "Allow", "Action": action, "Resource": resource}})


def as_attachment(one: Resource) -> Resource:
    inputs = {"role": one.inputs["role"], "policyArn": "arn:aws:iam::aws:policy/PowerUserAccess"}
    return replace(one, type="aws:iam/rolePolicyAttachment:RolePolicyAttachment", inputs=inputs)


def as_binding(type_: str, **inputs: Any) -> Change:
    return lambda one: replace(one, type=type_, inputs=inputs)


BROKEN: Mapping[str, tuple[str, str, Change]] = {
    "action and resource of all": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(Action=["ecs:*"], Resource=["*"]),
    ),
    "all actions on one resource": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(Action=["ecs:*"], Resource=["arn:aws:ecs:us-east-1:123456789012:cluster/one"]),
    ),
    "every bucket": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(Action=["s3:GetObject"], Resource=["arn:aws:s3:::*"]),
    ),
    "every task": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(Action=["ecs:StopTask"], Resource=["arn:aws:ecs:us-east-1:*:task/*"]),
    ),
    "port of the dispatcher": (
        "no-public-ingress",
        "dispatcher-from-front",
        with_inputs(cidrIpv4="0.0.0.0/0"),
    ),
    "range between two allowed ports": (
        "no-public-ingress",
        "dispatcher-from-front",
        with_inputs(cidrIpv4="0.0.0.0/0", fromPort=80, toPort=443),
    ),
    "every protocol": ("no-public-ingress", "dispatcher-from-front", with_every_protocol),
    "rule inside a group": (
        "no-public-ingress",
        "dispatcher-group",
        with_inputs(ingress=[inline(cidrBlocks=["10.0.0.0/8", "0.0.0.0/0"])]),
    ),
    "rule inside a group, over IPv6": (
        "no-public-ingress",
        "dispatcher-group",
        with_inputs(ingress=[inline(ipv6CidrBlocks=["::/0"])]),
    ),
    "every protocol by a rule inside a group": (
        "no-public-ingress",
        "dispatcher-group",
        with_inputs(ingress=[inline(protocol="-1", fromPort=0, toPort=0, cidrBlocks=["0.0.0.0/0"])]),
    ),
    "rule of the older kind": ("no-public-ingress", "dispatcher-from-front", as_older_rule),
    "policy inside a role": (
        "no-wildcard",
        "dispatcher-task-role",
        with_inputs(inlinePolicies=[{"name": "more", "policy": policy("*", "*")}]),
    ),
    "policy of AWS's": (
        "no-wildcard",
        "dispatcher-task-role",
        with_inputs(managedPolicyArns=["arn:aws:iam::aws:policy/AdministratorAccess"]),
    ),
    "attached policy": ("no-wildcard", "dispatcher-task-policy", as_attachment),
    "all but some actions": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(NotAction=["iam:PassRole"], Resource=["arn:aws:ecs:us-east-1:1:cluster/one"]),
    ),
    "an action that is no list": (
        "no-wildcard",
        "dispatcher-task-policy",
        with_statement(Action="ecs:*", Resource="arn:aws:ecs:us-east-1:1:cluster/one"),
    ),
    "disk in clear": ("encrypted-at-rest", "store", with_inputs(storageEncrypted=False)),
    "image by tag": (
        "image-by-digest",
        "bots-echo-task",
        with_container(image="registry.example.com/bot:latest"),
    ),
    "key as a variable": (
        "no-plain-secret",
        "dispatcher-task",
        with_container(environment=[{"name": "DAILY_API_KEY", "value": "hunter2"}]),
    ),
    "log for ever": ("log-retention", "bots-log", with_inputs(retentionInDays=0)),
    "store without protection": ("protected-data", "store", lambda one: replace(one, protected=False)),
    "no tags": ("tagged", "bots-cluster", lambda one: replace(one, tagged=False)),
}
"""Fault → the policy that catches it, and the resource of an AWS stack that is changed, and how."""

EVERYBODY = ["user:a@example.com", "serviceAccount:b@example.com"]

BROKEN_AT_GCP: Mapping[str, tuple[str, str, Change]] = {
    role: ("no-wildcard", "bots-echo-writes-logs", with_inputs(role=role))
    for role in ("roles/owner", "roles/editor", "roles/viewer")
} | {
    "a basic role on an account": (
        "no-wildcard",
        "dispatcher-bots-echo-account",
        with_inputs(role="roles/editor"),
    ),
    "a basic role for several": (
        "no-wildcard",
        "bots-echo-writes-logs",
        as_binding("gcp:projects/iAMBinding:IAMBinding", project="p", role="roles/editor", members=EVERYBODY),
    ),
    "a basic role on a folder": (
        "no-wildcard",
        "bots-echo-writes-logs",
        as_binding("gcp:folder/iAMMember:IAMMember", folder="f", role="roles/owner", member=EVERYBODY[0]),
    ),
    "a basic role in a whole policy": (
        "no-wildcard",
        "bots-echo-writes-logs",
        as_binding(
            "gcp:projects/iAMPolicy:IAMPolicy",
            project="p",
            policyData=json.dumps({"bindings": [{"role": "roles/owner", "members": EVERYBODY[:1]}]}),
        ),
    ),
}
"""The same, of a stack at Google Cloud."""

FAULTS = {"aws": BROKEN, "gcp": BROKEN_AT_GCP}
CASES = [(stack, fault) for stack, faults in FAULTS.items() for fault in faults]


def _verdicts(stack: str) -> Verdicts:
    """Return fault → the policies that are violated, each with its subject."""
    about = variant_of(stack, VARIANTS[stack])
    graph, _ = record(about)
    reviews = list(reviews_of(about).values())
    found = {}
    for fault, (_, name, change) in {"": ("", "store", lambda one: one), **FAULTS[stack]}.items():
        assert any(one.name == name for one in graph), name
        changed = Graph(
            graph.project, graph.stack, [change(one) if one.name == name else one for one in graph]
        )
        broken = violations(Facts.of(changed, reviews, throwaway=False), {})
        found[fault] = [(one.policy.name, one.subject) for one in broken]
    return found


@pytest.mark.parametrize(
    ("of", "all_of_them"),
    [
        ("*", True),
        ("arn:aws:s3:::*", True),
        ("arn:aws:s3:::*/*", True),
        ("arn:aws:logs:*:*", True),
        ("arn:aws:logs:us-east-1:1:log-group:*", True),
        ("arn:aws:ecs:us-east-1:*:task/*", True),
        ("/switchboard-aws/bots:*", False),
        ("arn:aws:logs:us-east-1:1:log-group:/bots:*", False),
        ("arn:aws:ecs:us-east-1:*:task/switchboard-aws/*", False),
        ("arn:aws:ecs:*:1:cluster/one", False),
        ("arn:aws:s3:::recordings-*", False),
        ("switchboard-aws-echo:*", False),
    ],
)
def test_resource_that_stands_for_all_is_told_from_a_suffix(of: str, all_of_them: bool) -> None:
    grant = Grant("role", "somebody", ["s3:GetObject"], [of])
    assert grant.wildcards == ([of] if all_of_them else [])


@pytest.fixture(scope="module")
def verdicts() -> Callable[[str], Verdicts]:
    """Record each stack once."""
    return functools.cache(lambda stack: run_forked(_verdicts, stack, seconds=SECONDS))


def test_every_policy_has_a_stack_that_breaks_it() -> None:
    assert {one.name for one in POLICIES} == {policy for policy, _, _ in BROKEN.values()}


@pytest.mark.parametrize("stack", FAULTS)
def test_the_stack_as_it_is_keeps_all_policies(stack: str, verdicts: Callable[[str], Verdicts]) -> None:
    assert verdicts(stack)[""] == []


@pytest.mark.parametrize(("stack", "fault"), CASES)
def test_policy_catches_a_stack_that_breaks_it(
    stack: str, fault: str, verdicts: Callable[[str], Verdicts]
) -> None:
    found = verdicts(stack)[fault]
    assert {name for name, _ in found} == {FAULTS[stack][fault][0]}


def test_data_of_a_throwaway_stack_needs_no_protection() -> None:
    made = json.loads(rendered_with(VARIANTS["aws-cheap"])["json"])
    states = {row["policy"]: row["state"] for row in made["sections"]["Policies"]["rows"]}
    assert states["protected-data"] == "holds"


def _facts_of_nothing() -> Facts:
    return Facts(Graph("switchboard", "prod", []), [], [], [], [], throwaway=False)


def test_exception_that_names_no_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"Exceptions\.nope: is no policy; allowed: encrypted-at-rest, "):
        violations(_facts_of_nothing(), {"nope": {"store": "because of reasons"}})


def test_exception_that_nothing_needs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policyExceptions\.tagged\.store: does not break the policy"):
        violations(_facts_of_nothing(), {"tagged": {"store": "because of reasons"}})


def test_exception_needs_a_justification() -> None:
    config = {
        "cloud": "docker",
        "agents": ECHO,
        "keys": [KEY],
        "policyExceptions": {"tagged": {"store": "x"}},
    }
    with pytest.raises(ConfigError, match=r"switchboard:policyExceptions.*allowed: a mapping of policies"):
        variant_of("prod", config)


def test_allowed_violation_is_shown_with_its_justification() -> None:
    untagged = replace(Resource("aws:ecs/cluster:Cluster", "bots-cluster", "", {}), tagged=False)
    facts = replace(_facts_of_nothing(), graph=Graph("switchboard", "prod", [untagged]))
    (found,) = violations(facts, {"tagged": {"bots-cluster": "tags are added by our landing zone"}})
    assert found.justification == "tags are added by our landing zone"
