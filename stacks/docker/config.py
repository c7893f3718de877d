"""Keys of the cloud `docker`: where its engine is, and what is reachable from outside.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from dispatcher.fields import Allowed
from stacks.clouds import CloudKeys
from stacks.shared.keys import PUBLIC_STUN, Image, ImageKeys, StunServers

LOCAL_SOCKET = "/var/run/docker.sock"

CADDY = "caddy:2.10.2-alpine@sha256:4c6e91c6ed0e2fa03efd5b44747b625fec79bc9cd06ac5235a779726618e530d"
COTURN = "coturn/coturn:4.6.3@sha256:71c3c990283385567f11794ee692e3a47b66fd9b0bb39e42afbe776e331dd888"

HOST_WORDS = "unix:///path/of/a/socket, or ssh://user@host or ssh://user@host:port with a port of 1 to 65535"
TURN_ADDRESS_WORDS = "the IP address by which callers reach the engine's host"
TURN_PORTS_WORDS = (
    "a list of the first and the last UDP port, 1024 to 65535, without 3478, at most 1000 ports"
)
"""Allowed values that a check of a whole config repeats."""

ZSTD_WITHOUT_REGISTRY = (
    "compression: 'zstd' is refused without a registry; allowed: gzip, or zstd with a registry, since an "
    "image that is loaded into the engine is not compressed"
)


def _address(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is refused; allowed: an IP address, such as 127.0.0.1") from None
    return text


def _reached(text: str) -> str:
    address = ipaddress.ip_address(_address(text))
    # Link-local is no host's for others, and on clouds the metadata service. Private ones do in a LAN.
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        raise ValueError(f"{text!r} is refused; allowed: {TURN_ADDRESS_WORDS}")
    return text


def _ssh_port(host: str) -> str:
    port = host.rpartition(":")[2]
    if host.startswith("ssh://") and port.isdigit() and int(port) > 65535:
        raise ValueError(f"{host!r} is refused; allowed: {HOST_WORDS}")
    return host


Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1024, le=65535)]
TURN_PORT = 3478
"""Port of the TURN server (RFC 8656)."""

MOST_RELAYS = 1000
"""Ports of relays. The engine has a process or a rule for each, and makes them one by one."""


class DockerPlacementConfig(ImageKeys):
    """Keys of a placement at the stack's Docker engine."""

    models: Annotated[str, Allowed("the name of a volume of the engine")] = Field(
        default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$"
    )
    """Volume with models, which bots see read-only at /mnt/models, where their images then look for them. A
    directory of the host is refused."""


class DockerConfig(DockerPlacementConfig):
    """Keys that only a stack of the cloud `docker` has."""

    host: Annotated[str, AfterValidator(_ssh_port), Allowed(HOST_WORDS)] = Field(
        default=f"unix://{LOCAL_SOCKET}",
        # ssh takes what begins with a hyphen for an option, and Docker's client does not keep it from that.
        pattern=r"^(unix:///[!-~]+|ssh://([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*"
        r"(:[1-9][0-9]{0,4})?)$",
    )
    """Docker engine that runs the stack. `tcp://` is refused: whoever reaches such an engine owns its host.
    Another engine is refused while the stack or its store is on the present one."""
    address: Annotated[Address, Allowed("an address of the engine's host, such as 127.0.0.1 or 0.0.0.0")] = (
        "127.0.0.1"
    )
    """Address that the dispatcher listens on, on the engine's host. Another one than loopback needs `keys`.
    Not with `domain`."""
    domain: Annotated[str, Allowed("a name that leads to the engine's host, such as voice.example.com")] = (
        Field(
            default="",
            max_length=253,
            pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        )
    )
    """Public name of the dispatcher; needs `keys`. With one, Caddy serves it on ports 80 and 443 and gets its
    certificate."""
    registry: Annotated[
        str, Allowed("a registry and a path in it, such as registry.example.com/team, without a tag")
    ] = Field(default="", pattern=r"^([a-z0-9._:-]+(/[a-z0-9._-]+)*)?$")
    """Registry that images are pushed to and pulled from by digest; without one they are loaded into the
    engine."""
    stun: StunServers = PUBLIC_STUN
    """STUN servers that tell bots and clients their public addresses, for clients on other networks; `[]` for
    none. A bot asks the first. Not used where `address` is loopback. With `turn` they come before the TURN
    server, which would tell a bot an address of the host's own networks."""
    turn: bool = False
    """Run a TURN server (coturn), for clients whose network lets nothing else through."""
    turn_address: Annotated[
        str, AfterValidator(lambda text: text and _reached(text)), Allowed(TURN_ADDRESS_WORDS)
    ] = ""
    """Address of the TURN server, as clients reach it; needed with `turn`. In a network of your own it is a
    private one; a link-local one is refused."""
    turn_ports: Annotated[tuple[Port, Port], Allowed(TURN_PORTS_WORDS)] = (49160, 49223)
    """First and last port of the TURN server's relays; a call takes one or two. The engine keeps a process or
    a rule for each port."""
    firewall: bool = True
    """Keep bots from metadata addresses, from the engine's host and from each other, by nftables on the
    engine's host. Off where that cannot be: bots reach all of these then."""
    caddy_image: Annotated[Image, Allowed("an image's reference")] = CADDY
    """Image of Caddy, which serves `domain`."""
    turn_image: Annotated[Image, Allowed("an image's reference")] = COTURN
    """Image of coturn, the TURN server."""

    @model_validator(mode="after")
    def _whole(self) -> DockerConfig:
        if self.turn and not self.turn_address:
            raise ValueError(f"turnAddress: is missing, and turn is on; allowed: {TURN_ADDRESS_WORDS}")
        first, last = self.turn_ports
        if not 0 <= last - first < MOST_RELAYS or first <= TURN_PORT <= last:
            raise ValueError(f"turnPorts: {list(self.turn_ports)} is refused; allowed: {TURN_PORTS_WORDS}")
        if self.compression == "zstd" and not self.registry:
            raise ValueError(ZSTD_WITHOUT_REGISTRY)
        if self.domain and self.address != "127.0.0.1":
            raise ValueError(
                "address: is there, and so is domain; allowed: one of them, since Caddy has its own"
            )
        if PurePosixPath(self.socket).parent == PurePosixPath("/"):
            raise ValueError(
                f"host: {self.host!r} is refused: the socket's directory is mounted; allowed: a socket in a "
                "directory below /"
            )
        return self

    @property
    def socket(self) -> str:
        """The engine's socket on its own host. A link would lead nowhere in a container."""
        path = LOCAL_SOCKET if self.over_ssh else self.host.removeprefix("unix://")
        return os.path.realpath(path) if not self.over_ssh and os.path.islink(path) else path

    @property
    def over_ssh(self) -> bool:
        """True if the engine is another machine's."""
        return self.host.startswith("ssh://")


class DockerKeys(CloudKeys):
    """Keys of a stack's config that this cloud adds."""

    docker: DockerConfig = DockerConfig()
    """Keys of the cloud `docker`. See docs/docker.md."""
