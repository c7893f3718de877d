"""The firewall: keeps bots from metadata addresses, from the engine's host and from each other.

Its container is in the host's network, where the rules are, and may do nothing else there. The engine's proxy
tells it the network over a socket in a volume of these two, and starts no bot while the rules are not there.
They stay when the container ends, so that no change of the stack opens the network; `FirewallRules` takes
them away with the stack, or with the key `firewall`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pulumi
import pulumi_docker as docker

from stacks.docker.config import TURN_PORT, DockerConfig
from stacks.docker.containers import Service, run, volume
from stacks.docker.firewall_rules import FIREWALL_SOCKET, PROGRAM, FirewallRules


@dataclass(frozen=True)
class FirewallArgs:
    prefix: str
    """What the names of its container, its volume and its tables begin with."""
    host: str
    """The engine."""
    image: pulumi.Input[str]
    """The dispatcher's."""
    reached: Sequence[str]
    """Ports of the host's that bots need, as `dispatcher.firewall` reads them."""
    tags: Mapping[str, str]


class Firewall(pulumi.ComponentResource):
    """The container with the rules, and their end."""

    container: docker.Container
    rules: FirewallRules
    """What starts bots depends on it, and so goes before the rules do."""

    def __init__(self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:Firewall", name, None, opts)
        inside = pulumi.ResourceOptions(parent=self)
        table = args.prefix
        self._volume = volume("firewall-volume", f"{args.prefix}-firewall", args.tags, inside)
        service = Service(
            name=f"{args.prefix}-firewall",
            image=args.image,
            # Root with this capability alone: the engine gives capabilities to no other user.
            user="0:0",
            capabilities=["NET_ADMIN"],
            host_network=True,
            entrypoint=[*PROGRAM, "serve", "--table", table, "--socket", FIREWALL_SOCKET],
            command=[word for ports in args.reached for word in ("--reach", ports)],
            mounts=[self.mount],
            memory_mb=64,
            tags=args.tags,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", *PROGRAM, "check", "--socket", FIREWALL_SOCKET],
                interval="15s",
                timeout="5s",
                start_period="30s",
                retries=2,
            ),
        )
        self.container = run("firewall", service, inside)
        self.rules = FirewallRules(
            "firewall-rules",
            host=args.host,
            container=self.container.name,
            table=table,
            image=args.image,
            opts=inside,
        )
        self.register_outputs({})

    @property
    def mount(self) -> docker.ContainerMountArgs:
        """The volume with the socket, for who talks to the firewall."""
        return docker.ContainerMountArgs(
            type="volume", source=self._volume.name, target=str(PurePosixPath(FIREWALL_SOCKET).parent)
        )


def reached(config: DockerConfig) -> list[str]:
    """Return the ports of the host's that bots need: those of the TURN server, which it publishes."""
    if not config.turn:
        return []
    first, last = config.turn_ports
    return [f"udp:{TURN_PORT}", f"tcp:{TURN_PORT}", f"udp:{first}-{last}"]
