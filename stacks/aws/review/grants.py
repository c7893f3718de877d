"""Permissions of AWS roles: the statements of their policies, in words, and who may read which secret."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacks.aws import permissions
from stacks.aws.review.tokens import ATTACHMENT, POLICY, ROLE
from stacks.plan.graph import Graph, Resource
from stacks.plan.review import Grant

WORDS = {
    "ecs:RunTask": "start tasks of",
    "ecs:DescribeTasks": "look at tasks",
    "ecs:StopTask": "stop tasks",
    "ecs:ListTasks": "list tasks",
    "ecs:TagResource": "tag new tasks",
    "iam:PassRole": "hand over the roles",
    "logs:CreateLogStream": "begin log streams",
    "logs:PutLogEvents": "write log lines",
    "ecr:GetAuthorizationToken": "log in to the registry",
    "ecr:BatchGetImage": "pull images",
    "ecr:GetDownloadUrlForLayer": "pull layers",
    "secretsmanager:GetSecretValue": "read secrets",
    "ssm:GetParameters": "read parameters",
}
"""Action → words for it. Any other is shown as AWS calls it."""

READS = {"secretsmanager:GetSecretValue", "ssm:GetParameters"}


@dataclass(frozen=True)
class _Policy:
    """A policy of a role, in whatever form the program writes it."""

    role: Resource | None
    """None: the program names the role by its name."""
    given: str
    document: str

    @property
    def identity(self) -> str:
        return self.given if self.role is None else _called(self.role)

    @property
    def assumed_by(self) -> str:
        return "whoever may assume it" if self.role is None else _trusted(self.role)

    @property
    def statements(self) -> list[Mapping[str, Any]]:
        return [one for one in _listed(json.loads(self.document)["Statement"]) if one["Effect"] == "Allow"]


def grants(graph: Graph) -> Sequence[Grant]:
    """Return what each role may do; a role that may do nothing has one grant without actions."""
    reasons = _reasons()
    found = [
        Grant(
            identity=policy.identity,
            assumed_by=policy.assumed_by,
            does=[_action(one) for one in _actions(statement)],
            to=[graph.words(one) for one in _resources(statement)],
            only_if=[graph.words(one) for one in _conditions(statement.get("Condition", {}))],
            reason=next((reasons[key] for key in reasons if statement.get("Sid", "").startswith(key)), ""),
        )
        for policy in _policies(graph)
        for statement in policy.statements
    ]
    for policy in _managed(graph):
        does = f"all that {graph.words(policy.document)} allows"
        found.append(
            Grant(policy.identity, policy.assumed_by, [does], ["what that policy names"], unlimited=[does])
        )
    with_some = {one.identity for one in found}
    found += [
        Grant(_called(one), _trusted(one), (), (), reason="The containers' own role may do nothing.")
        for one in graph.of(ROLE)
        if _called(one) not in with_some
    ]
    return found


def readers(graph: Graph) -> dict[str, list[str]]:
    """Return logical name of a secret → the roles that may read it."""
    found: dict[str, list[str]] = {}
    for policy in _policies(graph):
        for statement in policy.statements:
            if READS & set(_actions(statement)):
                for secret in filter(None, map(graph.referred, _resources(statement))):
                    found.setdefault(secret.name, []).append(policy.identity)
    return found


def _policies(graph: Graph) -> Iterator[_Policy]:
    """Yield the policies whose text the program has: those that stand alone, and those inside a role."""
    for one in graph.of(POLICY):
        role = one.inputs["role"]
        yield _Policy(graph.referred(role), role, one.inputs["policy"])
    for role in graph.of(ROLE):
        for inline in role.inputs.get("inlinePolicies") or ():
            yield _Policy(role, role.name, inline["policy"])


def _managed(graph: Graph) -> Iterator[_Policy]:
    """Yield policies of AWS's, or of the account's, which a role has by their ARN alone."""
    for one in graph.of(ATTACHMENT):
        role = one.inputs["role"]
        yield _Policy(graph.referred(role), role, one.inputs["policyArn"])
    for role in graph.of(ROLE):
        for arn in role.inputs.get("managedPolicyArns") or ():
            yield _Policy(role, role.name, arn)


def _called(role: Resource) -> str:
    return str(role.inputs.get("name", role.name))


def _trusted(role: Resource) -> str:
    statements = _listed(json.loads(role.inputs["assumeRolePolicy"])["Statement"])
    principals = [of["Principal"] for of in statements]
    return ", ".join(
        ", ".join(_listed(one))
        for of in principals
        for one in (of.values() if isinstance(of, Mapping) else [of])
    )


def _actions(statement: Mapping[str, Any]) -> list[str]:
    """Return the actions; of a statement that names those it does not allow, that it allows all others."""
    if "NotAction" in statement:
        return [f"* without {', '.join(_listed(statement['NotAction']))}"]
    return _listed(statement["Action"])


def _resources(statement: Mapping[str, Any]) -> list[str]:
    """Return the resources; of a statement that names those it is not about, that it is about all others."""
    if "NotResource" in statement:
        return ["*"]
    return _listed(statement["Resource"])


def _action(one: str) -> str:
    return f"{WORDS[one]} ({one})" if one in WORDS else one


def _listed(value: Any) -> list[Any]:
    """Return a value that IAM takes alone or in a list, as a list."""
    return value if isinstance(value, list) else [value]


def _conditions(conditions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for operator, keys in conditions.items():
        for key, value in keys.items():
            yield f"{key} {operator} {value}"


def _reasons() -> dict[str, str]:
    """Return the first words of a statement's id → its reason."""
    every = [
        *permissions.starts_bots("", "", "", [""], [""]),
        *permissions.starts_containers([""], [""], [""], [""]),
        *permissions.delivers_events(""),
    ]
    return {one.sid: one.reason for one in every}
