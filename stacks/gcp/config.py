"""The key `gcp` of a stack's config: where bots and the dispatcher run, how large, and how they are reached.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dispatcher.fields import Allowed
from stacks.clouds import CloudKeys
from stacks.gcp.sizes import MACHINE_TYPES
from stacks.shared.keys import PUBLIC_STUN, ImageKeys, StunServers

ZONES_OTHER_THAN_A_B_C: dict[str, tuple[str, ...]] = {
    "us-east1": ("b", "c", "d"),
    "europe-west1": ("b", "c", "d"),
}
"""Regions whose zones are others ("Regions and zones" of Compute Engine's documentation)."""

CIDR_WORDS = "a private IPv4 network of 16 to 24 bits, such as 10.66.0.0/20"

PROJECT_WORDS = "the id of a project, such as voice-prod-1234"


def _network(text: str) -> str:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is refused ({error}); allowed: {CIDR_WORDS}") from None
    if not network.is_private or not 16 <= network.prefixlen <= 24:
        raise ValueError(f"{text!r} is refused; allowed: {CIDR_WORDS}")
    return text


UdpPort = Annotated[int, Field(ge=1024, le=65535)]


class GcpPlacementConfig(ImageKeys):
    """Keys of a placement at Google Cloud."""

    project: Annotated[str, Allowed(PROJECT_WORDS)] = Field(
        default="", pattern=r"^([a-z][a-z0-9-]{4,28}[a-z0-9])?$"
    )
    """Id of the project that everything is made in. It has no default."""
    region: Annotated[str, Allowed("a region's name, such as europe-west4")] = Field(
        default="us-central1", pattern=r"^[a-z]+-[a-z]+[0-9]{1,2}$"
    )
    """Region of the VMs."""
    zones: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z]$")], ...],
        Allowed("a list of letters, such as [a, b, c]"),
    ] = Field(default=(), max_length=6)
    """Zones of the region, by their last letters, in the order in which they are tried. By default a, b and
    c, and in us-east1 and europe-west1 b, c and d."""
    draining_zones: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z]$")], ...],
        Allowed("a list of letters, such as [d]"),
    ] = Field(default=(), max_length=6)
    """Zones of the region to be given up, by their last letters: they get no new VMs, and the calls there go
    on. Keep a zone here for as long as a session may last."""
    machine_type: Annotated[str, Allowed(", ".join(MACHINE_TYPES))] = ""
    """Machine type of all agents. By default each agent gets the cheapest type of the E2 family that has its
    `cpu` and `memoryMb`."""
    machines: Literal["auto", "vm", "job"] = "auto"
    """Machines of bots. `vm`: a VM of Compute Engine for each session. `job`: an execution of a Cloud Run
    job, which starts sooner and carries no UDP, so agents that offer `webrtc` or `daily` are refused. `auto`:
    jobs for agents that offer neither, and VMs for all others."""
    capacity: Literal["standard", "spot"] = "standard"
    """Capacity of bots' VMs. Google may end a VM on `spot` in the middle of a call, 30 seconds after a
    notice."""
    disk_gb: int = Field(default=10, ge=10, le=200)
    """Size of a VM's boot disk, in GB. It holds the operating system and the unpacked image."""
    cidr: Annotated[str, AfterValidator(_network), Allowed(CIDR_WORDS)] = "10.66.0.0/20"
    """Addresses of the subnet that is made."""
    network: Annotated[str, Allowed("the name of a VPC network of the project")] = Field(
        default="", pattern=r"^([a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$"
    )
    """Existing VPC network to use; by default one is made."""
    subnetwork: Annotated[str, Allowed("the name of a subnet of the network, in the region")] = Field(
        default="", pattern=r"^([a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$"
    )
    """Subnet of the existing network."""
    nat: bool = False
    """Give VMs no public address, and a way out through Cloud NAT. Sessions over `webrtc` need a TURN server
    then."""
    udp_ports: Annotated[
        tuple[UdpPort, UdpPort], Allowed("a list of the first and the last UDP port, 1024 to 65535")
    ] = (32768, 60999)
    """First and last UDP port at which callers over `webrtc` reach bots; by default those that Linux gives
    out. Without an agent that offers `webrtc` none is open."""
    compression: Literal["gzip", "zstd"] = "zstd"
    """Compression of the images' layers. VMs unpack `zstd` faster."""

    @model_validator(mode="after")
    def _whole_placement(self) -> Self:
        if bool(self.network) != bool(self.subnetwork):
            missing, there = ("subnetwork", "network") if self.network else ("network", "subnetwork")
            raise ValueError(f"{missing}: is missing, and {there} is there; allowed: both, or none of them")
        if len(set(self.zones)) != len(self.zones):
            raise ValueError(f"zones: {list(self.zones)} names one twice; allowed: each once")
        for zone in self.draining_zones:
            if f"{self.region}-{zone}" in self.zone_names or self.draining_zones.count(zone) > 1:
                raise ValueError(
                    f"drainingZones: '{zone}' is given twice, in zones and drainingZones; allowed: each once"
                )
        first, last = self.udp_ports
        if first > last:
            raise ValueError(f"udpPorts: {[first, last]} is refused; allowed: the first before the last")
        if self.machine_type and self.machine_type not in MACHINE_TYPES:
            raise ValueError(
                f"machineType: {self.machine_type!r} is refused; allowed: {', '.join(MACHINE_TYPES)}"
            )
        return self

    @property
    def zone_names(self) -> tuple[str, ...]:
        """The zones' whole names, such as us-central1-a."""
        letters = self.zones or ZONES_OTHER_THAN_A_B_C.get(self.region, ("a", "b", "c"))
        return tuple(f"{self.region}-{letter}" for letter in letters)

    @property
    def draining_zone_names(self) -> tuple[str, ...]:
        """The whole names of the zones to be given up."""
        return tuple(f"{self.region}-{letter}" for letter in self.draining_zones)


class GcpConfig(GcpPlacementConfig):
    """Keys that only a stack has whose dispatcher runs at Google Cloud, and those of its own placement."""

    stun: StunServers = PUBLIC_STUN
    """STUN servers that tell bots and clients their public addresses, for sessions over `webrtc`."""
    domain: Annotated[str, Allowed("a name of yours, such as voice.example.com")] = Field(
        default="",
        max_length=253,
        pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
    )
    """Public name of the dispatcher, as a domain mapping of Cloud Run, which Google has in few regions and
    calls a preview. The domain must be verified for the account of whoever runs the engine. Without it the
    dispatcher has Cloud Run's own name."""
    dispatchers: int = Field(default=2, ge=1, le=10)
    """Instances of the dispatcher. All of them run all the time."""
    dispatcher_cpu: Literal[1, 2, 4] = 1
    """vCPUs of each instance. With less than one Cloud Run gives no CPU between requests."""
    dispatcher_memory_mb: int = Field(default=1024, ge=512, le=8192)
    """Memory of each instance, in MiB."""
    database: Annotated[str, Allowed("a tier of Cloud SQL, such as db-f1-micro or db-custom-1-3840")] = Field(
        default="db-f1-micro", pattern=r"^db-(f1-micro|g1-small|custom-[0-9]{1,2}-[0-9]{4,6})$"
    )
    """Tier of the store's PostgreSQL in Cloud SQL. With `databaseUrl` there is none. Google's service
    agreement leaves out db-f1-micro and db-g1-small, which share their core."""
    database_multi_zone: bool = False
    """Keep a standby of the database in another zone. It costs as much again."""
    backup_days: int = Field(default=7, ge=0, le=365)
    """Daily backups of the database that are kept; 0 makes none."""
    alarms: bool = True
    """Make alerts and a dashboard in Cloud Monitoring."""
    alarm_email: Annotated[str, Allowed("an e-mail address")] = Field(
        default="", max_length=254, pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$"
    )
    """Address that gets alerts; by default Cloud Monitoring alone shows them."""

    @model_validator(mode="after")
    def _whole_host(self) -> Self:
        if self.alarm_email and not self.alarms:
            raise ValueError("alarms: is off, and alarmEmail is there; allowed: alarms: true")
        return self


class GcpKeys(CloudKeys):
    """Keys of the cloud `gcp`."""

    gcp: GcpConfig = GcpConfig()
    """Keys of the cloud `gcp`. See docs/gcp.md."""
