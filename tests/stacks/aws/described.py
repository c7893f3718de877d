"""Programs for tests, each a function that a process of its own runs under Pulumi's mocks."""

from __future__ import annotations

from typing import Any

TAGS = {"project": "switchboard", "stack": "prod"}


def network(**given: Any) -> Any:
    from stacks.aws.network import Network, NetworkArgs

    args: dict[str, Any] = {
        "region": "us-east-1",
        "zones": ["us-east-1a", "us-east-1b"],
        "cidr": "10.64.0.0/16",
        "vpc_id": "",
        "subnet_ids": [],
        "udp_ports": None,
        "interface_endpoints": False,
        "tags": TAGS,
    }
    made = Network("network", NetworkArgs(**{**args, **given}))
    return {"vpc": made.vpc_id, "subnets": made.subnet_ids, "bots": made.bots.id}
