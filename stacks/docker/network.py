"""The networks: who can reach whom.

`control`: the dispatcher and the engine's proxy, and no way out. `machines`: the dispatcher, the bots and the
TURN server. `edge`, with a domain: Caddy and the dispatcher.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from stacks.docker.containers import network_labels


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
