"""The key `docker` of a stack's config: where its engine is, and what is reachable from outside.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

LOCAL_SOCKET = "/var/run/docker.sock"

CADDY = "caddy:2.10.2-alpine@sha256:4c6e91c6ed0e2fa03efd5b44747b625fec79bc9cd06ac5235a779726618e530d"
COTURN = "coturn/coturn:4.6.3@sha256:71c3c990283385567f11794ee692e3a47b66fd9b0bb39e42afbe776e331dd888"

# Of the Filesystem Hierarchy Standard; macOS's are elsewhere.
SHARED_DIRECTORIES = frozenset(
    (
        *("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc", "/root"),
        *("/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/tmp"),  # noqa: S108
        *("/Users", "/private", "/private/etc", "/private/tmp", "/private/var"),
    )
)

FIELDS = {
    "host": "unix:///path/of/a/socket, or ssh://user@host or ssh://user@host:port with a port of 1 to 65535",
    "address": "an address of the engine's host, such as 127.0.0.1 or 0.0.0.0",
    "domain": "a name that leads to the engine's host, such as voice.example.com",
    "registry": "a registry and a path in it, such as registry.example.com/team, without a tag",
    "base": "an image's reference, such as python:3.13-slim-trixie@sha256:…",
    "models": "the name of a volume of the engine",
    "vad": "onnx, torch",
    "media": "audio, video",
    "torchIndex": "default, or the URL of a package index without a password: https://… or http://…",
    "stun": "a list of stun:host:port",
    "turn": "true or false",
    "turnAddress": "the IP address by which callers reach the engine's host",
    "turnPorts": "a list of the first and the last UDP port, 1024 to 65535, without 3478, at most 1000 ports",
    "caddyImage": "an image's reference",
    "turnImage": "an image's reference",
}
"""Allowed values of each key, in the words of a refusal."""


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
        raise ValueError(f"{text!r} is refused; allowed: {FIELDS['turnAddress']}")
    return text


def _ssh_port(host: str) -> str:
    port = host.rpartition(":")[2]
    if host.startswith("ssh://") and port.isdigit() and int(port) > 65535:
        raise ValueError(f"{host!r} is refused; allowed: {FIELDS['host']}")
    return host


Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1024, le=65535)]
IMAGE = (
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""A reference: a registry or none, a path, and a tag or a digest or both."""

Image = Annotated[str, Field(max_length=512, pattern=f"^{IMAGE}$")]

TURN_PORT = 3478
"""Port of the TURN server (RFC 8656)."""

MOST_RELAYS = 1000
"""Ports of relays. The engine has a process or a rule for each, and makes them one by one."""


class DockerConfig(BaseModel):
    """Keys that only a stack of the cloud `docker` has."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    host: Annotated[str, AfterValidator(_ssh_port)] = Field(
        default=f"unix://{LOCAL_SOCKET}",
        # ssh takes what begins with a hyphen for an option, and Docker's client does not keep it from that.
        pattern=r"^(unix:///[!-~]+|ssh://([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*"
        r"(:[1-9][0-9]{0,4})?)$",
    )
    """The engine. Not `tcp://`: who reaches such an engine owns its host."""
    address: Address = "127.0.0.1"
    """Address of the dispatcher on the engine's host, unless there is a domain."""
    domain: str = Field(
        default="",
        max_length=253,
        pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
    )
    """The public name: with one, Caddy takes calls on ports 80 and 443, and gets the certificate."""
    registry: str = Field(default="", pattern=r"^([a-z0-9._:-]+(/[a-z0-9._-]+)*)?$")
    """Registry that images are pushed to and pulled from by digest; without one they are loaded into the
    engine."""
    base: str = Field(default="", max_length=512, pattern=f"^({IMAGE})?$")
    """The base of the images; by default that of the Dockerfiles."""
    models: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")
    """A volume that bots see read-only at /mnt/models, and where images look for models. A directory of the
    host it may not be."""
    vad: Literal["onnx", "torch"] = "onnx"
    """The voice activity detector of images."""
    media: Literal["audio", "video"] = "audio"
    """The media that bots' images have all libraries for."""
    torch_index: Annotated[str, Field(pattern=r"^(default|https?://[!-?A-~]+)?$")] = ""
    """The package index that torch is from, for `vad: torch`; by default PyTorch's of builds without CUDA.
    It is in an image's history, so it has no password."""
    stun: tuple[Annotated[str, Field(pattern=r"^stuns?:[A-Za-z0-9.:\[\]-]+$")], ...] = (
        "stun:stun.l.google.com:19302",
    )
    """From whom bots and clients learn their public addresses, if clients are elsewhere. Bots ask one."""
    turn: bool = False
    """True if there is a TURN server, for clients whose network lets nothing else through."""
    turn_address: Annotated[str, AfterValidator(lambda text: text and _reached(text))] = ""
    turn_ports: tuple[Port, Port] = (49160, 49223)
    """Ports of relays, one or two for each call. The engine has a process or a rule for each."""
    caddy_image: Image = CADDY
    turn_image: Image = COTURN

    @model_validator(mode="after")
    def _whole(self) -> DockerConfig:
        if self.turn and not self.turn_address:
            raise ValueError(f"turnAddress: is missing, and turn is on; allowed: {FIELDS['turnAddress']}")
        first, last = self.turn_ports
        if not 0 <= last - first < MOST_RELAYS or first <= TURN_PORT <= last:
            raise ValueError(f"turnPorts: {list(self.turn_ports)} is refused; allowed: {FIELDS['turnPorts']}")
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


def why_no_image(directory: Path, checkout: Path) -> str:
    """Say what a directory is, with all that lies below it, that nobody means to have in an image; or
    nothing."""
    home = Path(os.path.expanduser("~")).resolve()  # without an error where there is none
    if home.is_relative_to(directory):
        return "your home directory, or above it"
    if checkout.resolve().is_relative_to(directory):
        return "the checkout, or above it"
    if str(directory) in SHARED_DIRECTORIES or directory == Path(tempfile.gettempdir()).resolve():
        return "a directory of the system's"
    return ""
