"""The dispatcher's container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from stacks.docker.containers import Service, lines, run
from stacks.docker.environment import Variables
from stacks.docker.settings import DISPATCHER_ALIAS, DISPATCHER_PORT

STOP_SECONDS = 45
"""Between its SIGTERM and its end: it drains for 20 s at the most, gives answers in flight 10 s, and what it
does itself 15 s."""


@dataclass(frozen=True)
class DispatcherArgs:
    container_name: str
    image: pulumi.Input[str]
    environment: Mapping[str, pulumi.Input[str]]
    """Variables, secret ones among them."""
    outside: Mapping[str, str]
    """Those of them that come from the environment of the run, as `Variables` takes them."""
    networks: Sequence[docker.Network]
    store: docker.Volume
    address: str
    """Its address on the host; empty for none."""
    port: int
    tags: Mapping[str, str]


class Dispatcher(pulumi.ComponentResource):
    """The dispatcher. It has no socket of the engine's, and nothing of the host but a port."""

    container: docker.Container

    def __init__(self, name: str, args: DispatcherArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:Dispatcher", name, None, opts)
        inside = pulumi.ResourceOptions(parent=self)
        known = Variables("dispatcher-variables", values=args.environment, outside=args.outside, opts=inside)
        published = docker.ContainerPortArgs(internal=DISPATCHER_PORT, external=args.port, ip=args.address)
        service = Service(
            name=args.container_name,
            image=args.image,
            environment=lines(args.environment),
            networks=[(network, DISPATCHER_ALIAS) for network in args.networks],
            mounts=[
                docker.ContainerMountArgs(type="volume", source=args.store.name, target="/data"),
            ],
            ports=[published] if args.address else [],
            memory_mb=1024,
            tags=args.tags,
            stop_seconds=STOP_SECONDS,
        )
        # What the variables refuse is refused before the old container goes.
        after = pulumi.ResourceOptions(parent=self, depends_on=[known])
        self.container = run("dispatcher", service, after)
        self.register_outputs({})
