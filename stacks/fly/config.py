"""The key `fly` of a stack's config: where its apps are, how large, and how many.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from dispatcher.fields import Allowed
from dispatcher.machines.fly.sizes import KINDS
from stacks.clouds import CloudKeys
from stacks.shared.keys import PUBLIC_STUN, ImageKeys, StunServers

API_URL = "https://api.machines.dev"

TOKEN_VARIABLE = "FLY_API_TOKEN"  # noqa: S105 - its name
"""Variable with the organization's token, where the config has none."""

LONGEST_PREFIX = 40
"""Characters. An app's name has 63 (a label of DNS, RFC 1035); ours end with the agent and a number."""

CpuKind = Literal["shared", "performance"]
Region = Annotated[str, Field(pattern=r"^[a-z]{3}$")]


class FlyPlacementConfig(ImageKeys):
    """Keys of a placement at Fly."""

    org: Annotated[str, Allowed("the slug of a Fly organization, such as personal")] = Field(
        default="personal", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$"
    )
    """Fly organization that owns the apps."""
    prefix: Annotated[
        str, Allowed(f"at most {LONGEST_PREFIX} of a-z, 0-9 and -, beginning with a letter")
    ] = Field(default="", pattern=rf"^([a-z][a-z0-9-]{{0,{LONGEST_PREFIX - 1}}})?$")
    """First part of the apps' names, which are unique in all of Fly; by default project and stack."""
    regions: Annotated[
        tuple[Region, ...], Allowed("a list of at least one region's code, such as [iad, lhr]")
    ] = Field(default=("iad",), min_length=1)
    """Regions of bots' machines, in the order in which they are tried. The dispatcher runs in the first."""
    shards: int = Field(default=1, ge=1, le=64)
    """Number of apps that each agent's machines are spread over. Fly creates one machine per second in an
    app, and three at once. To have fewer, drain them first: removing an app ends its calls."""
    draining_shards: int = Field(default=0, ge=0, le=64)
    """Number of further apps for each agent that get no new machines. Use it to remove apps: they are kept
    until their calls have ended."""
    cpu_kind: CpuKind = "performance"
    """CPU kind of bots' machines. A shared CPU gets 5 ms in every 80 ms: a voice pipeline stutters."""
    token_days: int = Field(default=30, ge=2, le=365)
    """Lifetime of the dispatcher's Fly tokens, in days. `make up` in the second half of it makes new ones."""

    @property
    def apps(self) -> int:
        """Map each agent to those of its apps that are to go."""
        return self.shards + self.draining_shards

    @model_validator(mode="after")
    def _regions_differ(self) -> Self:
        if len(set(self.regions)) != len(self.regions):
            raise ValueError(f"regions: {list(self.regions)} names one twice; allowed: each once")
        return self


class FlyConfig(FlyPlacementConfig):
    """Keys of a stack of the cloud `fly`."""

    network: Annotated[str, Allowed("the name of a private network of the organization")] = Field(
        default="", pattern=r"^([a-z0-9][a-z0-9-]{0,62})?$"
    )
    """Private network of the dispatcher's app: name the one that its PostgreSQL is in. By default the app
    gets a network of its own. Each bot app always has its own."""
    domain: Annotated[
        str, Allowed("a name that leads to the dispatcher's app, such as voice.example.com")
    ] = Field(
        default="",
        max_length=253,
        pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
    )
    """Public name of the dispatcher; by default its app's name in fly.dev. The output `records` has what DNS
    needs; Fly makes the certificate then."""
    dispatchers: Annotated[int, Allowed("a whole number, 1 to 10; more than one needs databaseUrl")] = Field(
        default=1, ge=1, le=10
    )
    """Number of dispatcher machines. A SQLite store allows only one. See docs/replicas.md."""
    dispatcher_cpu_kind: CpuKind = "shared"
    """CPU kind of the dispatcher's machines. A shared CPU gets 6.25 % of a core and bursts; a start takes
    about 5 ms of CPU."""
    dispatcher_cpus: int = Field(default=2, ge=1, le=16)
    """CPUs of each dispatcher machine."""
    dispatcher_memory_mb: Annotated[int, Allowed("a multiple of 256, 256 to 131072")] = Field(
        default=1024, ge=256, le=131072, multiple_of=256
    )
    """Memory of each dispatcher machine, in MiB."""
    volume_gb: int = Field(default=1, ge=1, le=500)
    """Size of the volume that a SQLite store lies on, in GB. It can grow, not shrink. Fly takes a snapshot
    each day and keeps it for 5 days."""
    stun: StunServers = PUBLIC_STUN
    """STUN servers that tell bots and clients their public addresses, for sessions over `webrtc`. That
    transport was not tried at Fly, where a machine has no public address of its own: prefer `daily`."""
    adopt: Annotated[
        dict[str, str],
        Allowed("a mapping of a resource's name in this stack to the id of what is there already"),
    ] = Field(default={})
    """Resources that exist at Fly already and are taken over: name in this stack → id."""
    api_url: Annotated[str, Allowed("http(s)://host or http(s)://host:port")] = Field(
        default=API_URL, pattern=r"^https?://[^/@?#]+$"
    )
    """Fly's Machines API. Tests use another."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
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


class FlyKeys(CloudKeys):
    """Keys of a stack's config that this cloud adds."""

    fly: FlyConfig = FlyConfig()
    """Keys of the cloud `fly`, and of placements there. See docs/fly.md."""
    fly_api_token: SecretStr = SecretStr("")
    """Token of the Fly organization; by default FLY_API_TOKEN of the environment."""
