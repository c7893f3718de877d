"""The engine's proxy: the one container with the engine's socket, in a network with the dispatcher alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pulumi
import pulumi_docker as docker

from dispatcher.engine_proxy.settings import PROXY_PREFIX
from stacks.docker.containers import Service, lines, run
from stacks.docker.settings import ENGINE_ALIAS, ENGINE_PORT

DIRECTORY_IN_CONTAINER = "/run/engine"
"""Where the directory of the engine's socket is. A mount of the socket alone would not show the next one, as
of an engine that is started again under running containers (`live-restore`)."""

HEALTH = (
    "import http.client as h, sys; "
    f"c = h.HTTPConnection('127.0.0.1', {ENGINE_PORT}, timeout=4); "
    "c.request('GET', '/_ping'); a = c.getresponse(); "
    # What the engine said is then in the container's health, as `docker inspect` shows it.
    "sys.exit(a.status != 200 and a.read().decode())"
)


@dataclass(frozen=True)
class EngineProxyArgs:
    container_name: str
    image: pulumi.Input[str]
    environment: Mapping[str, pulumi.Input[str]]
    socket: str
    """The engine's, on its own host."""
    network: docker.Network
    tags: Mapping[str, str]
    firewall: docker.ContainerMountArgs | None
    """The volume with the firewall's socket, if there is one."""


class EngineProxy(pulumi.ComponentResource):
    """Lets the provider's calls through to the engine, and no others: `dispatcher/engine_proxy/`."""

    container: docker.Container

    def __init__(self, name: str, args: EngineProxyArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:docker:EngineProxy", name, None, opts)
        socket = PurePosixPath(args.socket)
        service = Service(
            name=args.container_name,
            image=args.image,
            # Root without a single capability: the socket belongs to root everywhere, and to a group that has
            # another number on every host. Whoever may open it owns the host anyway.
            user="0:0",
            entrypoint=["/opt/venv/bin/python", "-P", "-m", "dispatcher.engine_proxy"],
            environment=lines(
                {**args.environment, f"{PROXY_PREFIX}SOCKET": f"{DIRECTORY_IN_CONTAINER}/{socket.name}"}
            ),
            networks=[(args.network, ENGINE_ALIAS)],
            mounts=[
                docker.ContainerMountArgs(
                    type="bind", source=str(socket.parent), target=DIRECTORY_IN_CONTAINER, read_only=True
                ),
                *([args.firewall] if args.firewall is not None else []),
            ],
            memory_mb=128,
            tags=args.tags,
            healthcheck=docker.ContainerHealthcheckArgs(
                tests=["CMD", "/opt/venv/bin/python", "-P", "-c", HEALTH],
                interval="15s",
                timeout="5s",
                start_period="30s",
                retries=2,
            ),
        )
        self.container = run("engine-proxy", service, pulumi.ResourceOptions(parent=self))
        self.register_outputs({})
