"""The networks: who can reach whom.

`control`: the dispatcher and the engine's proxy, and no way out. `machines`: the dispatcher, the bots and the
TURN server. `edge`, with a domain: Caddy and the dispatcher.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pulumi
import pulumi_docker as docker

from stacks.docker.containers import network_labels

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class NetworksArgs:
    prefix: str
    """What their names begin with."""
    edge: bool
    tags: Mapping[str, str]


class Networks(pulumi.ComponentResource):
    """The stack's own networks."""

    control: docker.Network
    machines: docker.Network
    edge: docker.Network | None

    def __init__(self, name: str, args: NetworksArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:Networks", name, None, opts)

        def network(part: str, internal: bool) -> docker.Network:
            return docker.Network(
                f"{part}-network",
                name=f"{args.prefix}-{part}",
                driver="bridge",
                internal=internal,
                labels=network_labels(args.tags),
                opts=pulumi.ResourceOptions(parent=self),
            )

        self.control = network("control", internal=True)
        self.machines = network("machines", internal=False)
        self.edge = network("edge", internal=False) if args.edge else None
        self.register_outputs({})

    @property
    def of_machines(self) -> pulumi.Output[list[str]]:
        """The networks of all addresses that bots may have: the host has another one in theirs."""
        return self.machines.ipam_configs.apply(
            lambda configs: [
                str(network)
                for one in configs or ()
                if one.subnet
                for first, last in around_gateway(one.subnet, one.gateway or "")
                for network in ipaddress.summarize_address_range(first, last)
            ]
        )


def around_gateway(subnet: str, gateway: str) -> Iterator[tuple[Address, Address]]:
    """The addresses of a subnet that its containers may have, as ranges of first and last."""
    network = ipaddress.ip_network(subnet)
    host = ipaddress.ip_address(gateway.partition("/")[0] or network[1])
    first, last = network[1], network[-2]
    if int(first) < int(host):
        yield first, host - 1
    if int(host) < int(last):
        yield host + 1, last
