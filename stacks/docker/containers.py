"""The common part of the stack's containers: what they may not do, how they restart and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_docker as docker

TMPFS = {"/tmp": "rw,nosuid,nodev,noexec,size=16m,mode=1777"}  # noqa: S108 - its own

STOP_SECONDS = 20
"""Between a container's SIGTERM and its end."""


@dataclass(frozen=True)
class Service:
    """A container that runs as long as its host."""

    name: str
    image: pulumi.Input[str]
    memory_mb: int
    tags: Mapping[str, str]
    networks: Sequence[tuple[docker.Network, str]] = ()
    """With the container's name in each."""
    host_network: bool = False
    """Use the host's own network."""
    environment: Sequence[pulumi.Input[str]] = ()
    user: str | None = None
    """None: the image's own."""
    entrypoint: Sequence[str] | None = None
    command: Sequence[str] | None = None
    mounts: Sequence[docker.ContainerMountArgs] = ()
    ports: Sequence[docker.ContainerPortArgs] = ()
    capabilities: Sequence[str] = ()
    """Beside none."""
    healthcheck: docker.ContainerHealthcheckArgs | None = None
    tmpfs: Mapping[str, str] = field(default_factory=lambda: TMPFS)
    stop_seconds: int = STOP_SECONDS
    """Between its SIGTERM and its end."""


def run(logical_name: str, service: Service, opts: pulumi.ResourceOptions) -> docker.Container:
    """The container of a service. Names and ports are the host's: the old one goes before the new one."""
    return docker.Container(
        logical_name,
        name=service.name,
        image=service.image,
        user=service.user,
        entrypoints=service.entrypoint,
        command=service.command,
        envs=service.environment or None,
        mounts=service.mounts or None,
        ports=service.ports or None,
        network_mode="host" if service.host_network else None,
        networks_advanced=[
            docker.ContainerNetworksAdvancedArgs(name=network.name, aliases=[alias])
            for network, alias in service.networks
        ]
        or None,
        memory=service.memory_mb,
        memory_swap=service.memory_mb,
        read_only=True,
        tmpfs=service.tmpfs,
        capabilities=docker.ContainerCapabilitiesArgs(adds=service.capabilities or None, drops=["ALL"]),
        security_opts=["no-new-privileges:true"],
        init=True,
        restart="unless-stopped",
        stop_timeout=service.stop_seconds,
        destroy_grace_seconds=service.stop_seconds,
        log_driver="json-file",
        log_opts={"max-size": "10m", "max-file": "5"},
        labels=[docker.ContainerLabelArgs(label=name, value=value) for name, value in service.tags.items()],
        healthcheck=service.healthcheck,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )


def lines(variables: Mapping[str, pulumi.Input[str]]) -> list[pulumi.Input[str]]:
    """Return `NAME=value` for each, as an input of its own: one that is not known yet hides no other."""

    def line(name: str, value: pulumi.Input[str]) -> pulumi.Input[str]:
        return f"{name}={value}" if isinstance(value, str) else pulumi.Output.concat(name, "=", value)

    return [line(name, value) for name, value in variables.items()]


def volume(
    logical_name: str, name: str, tags: Mapping[str, str], opts: pulumi.ResourceOptions
) -> docker.Volume:
    labels = [docker.VolumeLabelArgs(label=key, value=value) for key, value in tags.items()]
    return docker.Volume(logical_name, name=name, labels=labels, opts=opts)


def network_labels(tags: Mapping[str, str]) -> list[docker.NetworkLabelArgs]:
    return [docker.NetworkLabelArgs(label=name, value=value) for name, value in tags.items()]
