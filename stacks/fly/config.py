"""The key `fly` of a stack's config: where its apps are, how large, and how many.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from dispatcher.machines.fly.sizes import KINDS

API_URL = "https://api.machines.dev"

TOKEN_VARIABLE = "FLY_API_TOKEN"  # noqa: S105 - its name
"""Variable with the organization's token, where the config has none."""

LONGEST_PREFIX = 40
"""Characters. An app's name has 63 (a label of DNS, RFC 1035); ours end with the agent and a number."""

FIELDS = {
    "org": "the slug of a Fly organization, such as personal",
    "prefix": f"at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter",
    "regions": "a list of at least one region's code, such as [iad, lhr]",
    "network": "the name of a private network of the organization",
    "domain": "a name that leads to the dispatcher's app, such as voice.example.com",
    "dispatchers": "a whole number, 1 to 10; more than one needs databaseUrl",
    "dispatcherCpuKind": "shared, performance",
    "dispatcherCpus": "a whole number, 1 to 16",
    "dispatcherMemoryMb": "a multiple of 256, 256 to 131072",
    "volumeGb": "a whole number, 1 to 500",
    "shards": "a whole number, 1 to 64",
    "drainingShards": "a whole number, 0 to 64",
    "cpuKind": "performance, shared",
    "tokenDays": "a whole number, 2 to 365",
    "base": "an image's reference, such as python:3.13-slim-trixie@sha256:…",
    "vad": "onnx, torch",
    "media": "audio, video",
    "torchIndex": "default, or the URL of a package index without a password: https://… or http://…",
    "stun": "a list of stun:host:port",
    "adopt": "a mapping of a resource's name in this stack to the id of what is there already",
    "apiUrl": "http(s)://host or http(s)://host:port",
}
"""Allowed values of each key, in the words of a refusal."""

CpuKind = Literal["shared", "performance"]
Region = Annotated[str, Field(pattern=r"^[a-z]{3}$")]


class FlyConfig(BaseModel):
    """Keys that only a stack of the cloud `fly` has."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    org: str = Field(default="personal", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    prefix: str = Field(default="", pattern=rf"^([a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}})?$")
    """The beginning of the apps' names, by default project and stack. They are unique in all of Fly."""
    regions: tuple[Region, ...] = Field(default=("iad",), min_length=1)
    """Regions of machines, in the order in which they are asked; the dispatcher is in the first."""
    network: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$")
    """The private network of the dispatcher's app: name the one that its PostgreSQL is in. By default one of
    its own; each bot app has one of its own always."""
    domain: str = Field(
        default="",
        max_length=253,
        pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
    )
    """The public name, by default that of the dispatcher's app in fly.dev."""
    dispatchers: int = Field(default=1, ge=1, le=10)
    """Machines of the dispatcher. On one SQLite there can only be one."""
    dispatcher_cpu_kind: CpuKind = "shared"
    """A shared CPU's baseline is 6.25 % of a core, with a balance for bursts; a start takes some 5 ms."""
    dispatcher_cpus: int = Field(default=2, ge=1, le=16)
    dispatcher_memory_mb: int = Field(default=1024, ge=256, le=131072, multiple_of=256)
    volume_gb: int = Field(default=1, ge=1, le=500)
    """Size of the store's volume, where it is SQLite."""
    shards: int = Field(default=1, ge=1, le=64)
    """Apps for each agent's machines. Fly lets an app create one machine a second, and three at once."""
    draining_shards: int = Field(default=0, ge=0, le=64)
    """Apps behind those that get no new machines and are kept: they are to go once their calls have ended."""
    cpu_kind: CpuKind = "performance"
    """CPU of the bots' machines. A shared CPU throttles a voice pipeline: its baseline is 5 ms in each 80
    ms."""
    token_days: int = Field(default=30, ge=2, le=365)
    """Life of the dispatcher's tokens; an `up` in the second half of it makes new ones."""
    base: str = Field(default="", max_length=512)
    """The base of the images; by default that of the Dockerfiles."""
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
    """From whom bots and clients of the transport webrtc learn their public addresses."""
    adopt: dict[str, str] = {}
    """Resource → id of what exists already and is taken over, not made."""
    api_url: str = Field(default=API_URL, pattern=r"^https?://[^/@?#]+$")

    @property
    def apps(self) -> int:
        """For each agent, those among them that are to go."""
        return self.shards + self.draining_shards

    @model_validator(mode="after")
    def _whole(self) -> FlyConfig:
        if len(set(self.regions)) != len(self.regions):
            raise ValueError(f"regions: {list(self.regions)} names one twice; allowed: each once")
        kind = KINDS[self.dispatcher_cpu_kind]
        if self.dispatcher_cpus not in kind.cpus:
            raise ValueError(
                f"dispatcherCpus: {self.dispatcher_cpus} is no size of a machine of kind "
                f"{self.dispatcher_cpu_kind}; allowed: {', '.join(map(str, kind.cpus))}"
            )
        allowed = range(
            self.dispatcher_cpus * kind.least_mb, self.dispatcher_cpus * kind.most_mb + 1, kind.least_mb
        )
        if self.dispatcher_memory_mb not in allowed:
            raise ValueError(
                f"dispatcherMemoryMb: {self.dispatcher_memory_mb} is refused for {self.dispatcher_cpus} CPUs "
                f"of kind {self.dispatcher_cpu_kind}; allowed: {allowed[0]} to {allowed[-1]} in steps of "
                f"{kind.least_mb}"
            )
        return self
