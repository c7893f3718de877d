"""The public name: Caddy, which gets a certificate for it and passes calls on to the dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from stacks.docker.containers import Service, run, volume
from stacks.docker.settings import DISPATCHER_ALIAS, DISPATCHER_PORT


@dataclass(frozen=True)
class EdgeArgs:
    prefix: str
    image: str
    domain: str
    network: docker.Network
    certificates: docker.Volume
    """With Caddy's account at their authority."""
    tags: Mapping[str, str]


class Edge(pulumi.ComponentResource):
    """Caddy on ports 80 and 443. WebSockets pass as they are, and event streams without a buffer."""

    container: docker.Container

    def __init__(self, name: str, args: EdgeArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:Edge", name, None, opts)
        settings = volume(
            "caddy-config", f"{args.prefix}-caddy-config", args.tags, pulumi.ResourceOptions(parent=self)
        )
        service = Service(
            name=f"{args.prefix}-caddy",
            image=args.image,
            command=[
                *("caddy", "reverse-proxy", "--from", args.domain),
                *("--to", f"{DISPATCHER_ALIAS}:{DISPATCHER_PORT}"),
            ],
            networks=[(args.network, "caddy")],
            mounts=[
                docker.ContainerMountArgs(type="volume", source=args.certificates.name, target="/data"),
                docker.ContainerMountArgs(type="volume", source=settings.name, target="/config"),
            ],
            ports=[
                docker.ContainerPortArgs(internal=80, external=80, protocol="tcp"),
                docker.ContainerPortArgs(internal=443, external=443, protocol="tcp"),
                docker.ContainerPortArgs(internal=443, external=443, protocol="udp"),
            ],
            # Its file asks for this one; without it the kernel does not start the program.
            capabilities=["NET_BIND_SERVICE"],
            memory_mb=256,
            tags=args.tags,
        )
        self.container = run("caddy", service, pulumi.ResourceOptions(parent=self))
        self.register_outputs({})
