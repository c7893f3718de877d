"""The network of a placement."""

from __future__ import annotations

import functools
import ipaddress

import pytest

from stacks.aws.network import subnet_blocks
from tests.stacks.aws import described
from tests.stacks.aws.graph import Graph, recorded
from tests.stacks.aws.names import NO_SCHEMA


def graph(**given: object) -> Graph:
    return recorded(NO_SCHEMA, functools.partial(described.network, **given))


@pytest.mark.parametrize("number", [2, 3, 4, 6])
def test_subnets_share_the_vpc_without_overlap(number: int) -> None:
    blocks = [ipaddress.ip_network(one) for one in subnet_blocks("10.64.0.0/16", number)]
    assert len(blocks) == number
    assert all(one.subnet_of(ipaddress.ip_network("10.64.0.0/16")) for one in blocks)  # type: ignore[arg-type]
    assert not any(one.overlaps(other) for one in blocks for other in blocks if one is not other)


def test_subnets_stay_where_they_are_when_a_zone_is_added() -> None:
    assert subnet_blocks("10.64.0.0/16", 4)[:2] == subnet_blocks("10.64.0.0/16", 2)


def test_bots_are_reached_over_udp_only_where_agents_offer_webrtc() -> None:
    ingress = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
    assert graph().of_type(ingress) == {}
    (rule,) = graph(udp_ports=(32768, 60999)).of_type(ingress).values()
    assert (rule.inputs["ipProtocol"], rule.inputs["fromPort"], rule.inputs["toPort"]) == (
        "udp",
        32768,
        60999,
    )


def test_existing_vpc_gets_a_security_group_and_nothing_else() -> None:
    found = graph(vpc_id="vpc-1", subnet_ids=["subnet-1", "subnet-2"])
    assert set(found.aws) == {"network-bots", "network-bots-out"}
    assert found.inputs("network-bots")["vpcId"] == "vpc-1"
    assert found.result["subnets"] == ["subnet-1", "subnet-2"]
