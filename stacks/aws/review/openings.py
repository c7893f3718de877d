"""Openings of an AWS stack: CloudFront, and security groups' rules in each form that AWS has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stacks.aws.review.tokens import (
    BALANCER,
    DEFAULT_GROUP,
    DISTRIBUTION,
    EGRESS,
    GROUP,
    INGRESS,
    OLD_RULE,
)
from stacks.plan.graph import Graph, Resource
from stacks.plan.review import EVERY_PORT, EVERY_PROTOCOL, INTERNET, Opening, ranges

ANYWHERE = ("0.0.0.0/0", "::/0")

RULE_TYPES = {INGRESS: "ingress", EGRESS: "egress"}


@dataclass(frozen=True)
class Rule:
    """A rule of a security group with one peer, in whatever form the program writes it."""

    group: Resource | None
    """None: the program names the group by its id."""
    called: str
    """Words for the group."""
    peer: str
    """A range of addresses, or a reference to a group or a list of prefixes."""
    protocol: str
    """AWS's name or number; `-1` is every protocol."""
    first: int
    last: int
    description: str


def openings(graph: Graph) -> Sequence[Opening]:
    """Return the ports that somebody reaches, through CloudFront or a security group."""
    found = [
        Opening(
            INTERNET,
            f"CloudFront: {distribution.inputs['comment']}",
            "tcp and udp",
            ranges((80, 443)),
            "Callers' HTTPS, HTTP/3 and WebSockets; port 80 only redirects",
            "TLS by CloudFront; HTTP behind it, inside the VPC",
        )
        for distribution in graph.of(DISTRIBUTION)
    ]
    for rule in rules(graph, "ingress"):
        public = rule.peer in ANYWHERE and not _is_internal(graph, rule.group)
        where = "the VPC" if rule.peer in ANYWHERE else graph.words(rule.peer)
        protocol, ports = _reached(rule)
        found.append(
            Opening(
                INTERNET if public else where,
                rule.called,
                protocol,
                ports,
                rule.description,
                _encrypted(protocol, ports),
            )
        )
    return found


def egress(graph: Graph) -> Sequence[str]:
    """Return where each security group lets connections go, a line each."""
    found = []
    for rule in rules(graph, "egress"):
        to = "anywhere" if rule.peer in ANYWHERE else graph.words(rule.peer)
        found.append(f"{rule.called}: to {to}. {rule.description}".rstrip())
    return found


def rules(graph: Graph, way: str) -> Iterator[Rule]:
    """Yield the rules of one way, `ingress` or `egress`: those that stand alone, and those inside a group."""
    for one in graph.of(INGRESS, EGRESS):
        if RULE_TYPES[one.type] == way:
            yield from _of(graph, _group(graph, one), one.inputs, one.inputs["ipProtocol"])
    for one in graph.of(OLD_RULE):
        if one.inputs["type"] == way:
            yield from _of(graph, _group(graph, one), one.inputs, one.inputs["protocol"])
    for group in graph.of(GROUP, DEFAULT_GROUP):
        for inputs in group.inputs.get(way) or ():
            yield from _of(graph, (group, _named(group)), inputs, inputs["protocol"])


def _group(graph: Graph, rule: Resource) -> tuple[Resource | None, str]:
    group = graph.referred(rule.inputs["securityGroupId"])
    return group, str(rule.inputs["securityGroupId"]) if group is None else _named(group)


def _named(group: Resource) -> str:
    return str(group.inputs.get("description") or group.called)


def _of(
    graph: Graph, of: tuple[Resource | None, str], inputs: Mapping[str, Any], protocol: str
) -> Iterator[Rule]:
    """Yield a rule for each peer of what a program writes as one."""
    group, called = of
    for peer in _peers(called, inputs):
        yield Rule(
            group,
            called,
            peer,
            "-1" if protocol == "all" else str(protocol),
            int(inputs.get("fromPort") or 0),
            int(inputs.get("toPort") or 0),
            inputs.get("description") or "",
        )


ALONE = ("cidrIpv4", "cidrIpv6", "referencedSecurityGroupId", "prefixListId", "sourceSecurityGroupId")
LISTS = ("cidrBlocks", "ipv6CidrBlocks", "securityGroups", "prefixListIds")


def _peers(called: str, inputs: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(inputs[key]) for key in ALONE if inputs.get(key))
    for key in LISTS:
        yield from (str(one) for one in inputs.get(key) or ())
    if inputs.get("self"):
        yield called


def _is_internal(graph: Graph, group: Resource | None) -> bool:
    """Tell whether a group is that of a load balancer without a public address, and of no other."""
    behind = [
        one
        for one in graph.of(BALANCER)
        if group is not None and any(graph.referred(of) == group for of in one.inputs["securityGroups"])
    ]
    return bool(behind) and all(one.inputs.get("internal") for one in behind)


def _reached(rule: Rule) -> tuple[str, Sequence[range]]:
    """Return the protocol and the ports of a rule; AWS has ports for TCP and UDP alone."""
    if rule.protocol not in ("tcp", "udp"):
        return EVERY_PROTOCOL if rule.protocol == "-1" else rule.protocol, EVERY_PORT
    return rule.protocol, (range(rule.first, rule.last + 1),)


def _encrypted(protocol: str, ports: Sequence[range]) -> str:
    if protocol == "udp":
        return "DTLS-SRTP between browser and bot"
    by = {443: "TLS by the load balancer", 5432: "TLS by PostgreSQL"}
    (reached,) = ports
    return by.get(reached.start, "not encrypted") if len(reached) == 1 else "not encrypted"
