"""The key `aws` of a stack's config: where bots and the dispatcher run, how large, and how they are reached.

It needs none of the packages that only this cloud has: every stack's config is read with it.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator

from dispatcher.fields import Allowed
from dispatcher.machines.ecs.sizes import fargate_size
from stacks.clouds import CloudKeys
from stacks.shared.keys import PUBLIC_STUN, ImageKeys, StunServers

Architecture = Literal["X86_64", "ARM64"]
"""CPU architectures of Fargate, as its API names them."""

REGION = r"^[a-z]{2}(-[a-z]+)+-[0-9]$"

WITHOUT_DEFAULT_ZONES = ("ap-northeast-1", "us-west-1")
"""Regions in which not every account has the zones a and b (EC2 user guide, "Availability Zones")."""

CIDR_WORDS = "a private IPv4 network of 16 to 24 bits, such as 10.64.0.0/16"


def _network(text: str) -> str:
    try:
        network = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is refused ({error}); allowed: {CIDR_WORDS}") from None
    if not network.is_private or not 16 <= network.prefixlen <= 24:
        raise ValueError(f"{text!r} is refused; allowed: {CIDR_WORDS}")
    return text


UdpPort = Annotated[int, Field(ge=1024, le=65535)]


class AwsPlacementConfig(ImageKeys):
    """Keys of a placement at AWS."""

    region: Annotated[str, Allowed("a region's name, such as eu-central-1")] = Field(
        default="us-east-1", pattern=REGION
    )
    """Region of the tasks."""
    zones: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z]$")], ...],
        Allowed("a list of at least two letters, such as [a, b]"),
    ] = Field(default=("a", "b"), min_length=2, max_length=6)
    """Availability zones of the region, by their last letters. A task goes to one that has capacity."""
    cidr: Annotated[str, AfterValidator(_network), Allowed(CIDR_WORDS)] = "10.64.0.0/16"
    """Addresses of the VPC that is made."""
    vpc_id: Annotated[str, Allowed("the id of a VPC, such as vpc-0123456789abcdef0")] = Field(
        default="", pattern=r"^(vpc-[0-9a-f]{8,17})?$"
    )
    """Existing VPC to use; by default one is made."""
    subnet_ids: Annotated[
        tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]{8,17}$")], ...],
        Allowed("a list of the ids of public subnets of the VPC, in at least two zones"),
    ] = Field(default=(), max_length=16)
    """Public subnets of the existing VPC, in at least two zones."""
    capacity: Literal["fargate", "spot"] = "fargate"
    """Capacity of bots' tasks. AWS may end a task on `spot` in the middle of a call, two minutes after a
    notice."""
    architecture: Literal["x86_64", "arm64"] = "x86_64"
    """CPU architecture of bots. `arm64` costs a fifth less, and its images need a builder that can build
    them."""
    udp_ports: Annotated[
        tuple[UdpPort, UdpPort], Allowed("a list of the first and the last UDP port, 1024 to 65535")
    ] = (32768, 60999)
    """First and last UDP port at which callers over `webrtc` reach bots; by default those that Linux gives
    out. Without an agent that offers `webrtc` none is open."""
    secrets: Literal["secretsmanager", "ssm"] = "secretsmanager"
    """Store of secret variables: Secrets Manager, at $0.40 a month for each agent, or the Parameter Store of
    SSM, which is free for values up to 4 KiB."""
    compression: Literal["gzip", "zstd"] = "zstd"
    """Compression of the images' layers. Fargate starts sooner from `zstd`."""
    interface_endpoints: bool = False
    """Reach ECR, CloudWatch Logs and the secrets' store inside the VPC. It costs $0.01 for each of five
    endpoints, zone and hour."""
    log_days: Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1827, 3653] = 30
    """Days that log lines are kept; those that CloudWatch has."""

    @model_validator(mode="after")
    def _whole_placement(self) -> Self:
        if bool(self.vpc_id) != bool(self.subnet_ids):
            missing, there = ("subnetIds", "vpcId") if self.vpc_id else ("vpcId", "subnetIds")
            raise ValueError(f"{missing}: is missing, and {there} is there; allowed: both, or none of them")
        for name in ("zones", "subnet_ids"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                alias = "subnetIds" if name == "subnet_ids" else name
                raise ValueError(f"{alias}: {list(given)} names one twice; allowed: each once")
        if len(self.subnet_ids) == 1:
            raise ValueError(
                f"subnetIds: {list(self.subnet_ids)} is refused; allowed: subnets in at least two zones"
            )
        if self.region in WITHOUT_DEFAULT_ZONES and not self.vpc_id and "zones" not in self.model_fields_set:
            raise ValueError(
                f"zones: is missing, and in {self.region} not every account has the zones a and b; allowed: "
                "two of those that `aws ec2 describe-availability-zones` lists, such as [a, c]"
            )
        first, last = self.udp_ports
        if first > last:
            raise ValueError(f"udpPorts: {[first, last]} is refused; allowed: the first before the last")
        return self

    @property
    def fargate_architecture(self) -> Architecture:
        """The architecture as Fargate's API names it."""
        return cast(Architecture, self.architecture.upper())

    @property
    def zone_names(self) -> tuple[str, ...]:
        """The zones' whole names, such as us-east-1a."""
        return tuple(f"{self.region}{letter}" for letter in self.zones)


class AwsConfig(AwsPlacementConfig):
    """Keys that only a stack has whose dispatcher runs at AWS, and those of its own placement."""

    stun: StunServers = PUBLIC_STUN
    """STUN servers that tell bots and clients their public addresses, for sessions over `webrtc`."""
    domain: Annotated[str, Allowed("a name of yours, such as voice.example.com")] = Field(
        default="",
        max_length=253,
        pattern=r"^(([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?)?$",
    )
    """Public name of the dispatcher, with a public load balancer. Without one it has CloudFront's name, and
    the load balancer is internal."""
    zone_id: Annotated[str, Allowed("the id of a hosted zone of Route 53, such as Z0123456789ABCDEFGHIJ")] = (
        Field(default="", pattern=r"^(Z[A-Z0-9]{1,31})?$")
    )
    """Route 53's zone of `domain`. Without one the DNS records that it needs are printed, and `make up` waits
    for the certificate's."""
    certificate_arn: Annotated[str, Allowed("the ARN of a certificate of ACM in the region")] = Field(
        default="", pattern=r"^(arn:aws[a-z-]*:acm:[a-z0-9-]+:[0-9]{12}:certificate/[A-Za-z0-9-]+)?$"
    )
    """Certificate for `domain` that exists already; by default one is made."""
    dispatchers: int = Field(default=2, ge=1, le=10)
    """Number of the dispatcher's tasks."""
    dispatcher_cpu: Annotated[float, Allowed("0.25, 0.5, 1, 2 or 4")] = Field(default=0.5, gt=0, le=4)
    """vCPUs of each of the dispatcher's tasks."""
    dispatcher_memory_mb: int = Field(default=1024, ge=512, le=30720)
    """Memory of each of the dispatcher's tasks, in MiB."""
    database: Annotated[str, Allowed("a class of RDS instances, such as db.t4g.micro")] = Field(
        default="db.t4g.micro", pattern=r"^db\.[a-z0-9]+\.[a-z0-9]+$"
    )
    """Class of the store's PostgreSQL in RDS. With `databaseUrl` there is none."""
    database_multi_zone: bool = False
    """Keep a standby of the database in another zone. It costs as much again."""
    backup_days: int = Field(default=7, ge=0, le=35)
    """Days that the database's daily snapshots are kept; 0 makes none."""
    alarms: bool = True
    """Make four alarms, at $0.10 a month each, and a dashboard, at $3 a month beyond the account's third."""
    alarm_email: Annotated[str, Allowed("an e-mail address")] = Field(
        default="", max_length=254, pattern=r"^([^@\s]+@[^@\s]+\.[^@\s]+)?$"
    )
    """Address that gets alarms, once it has confirmed; by default CloudWatch alone shows them."""
    budget_usd: int = Field(default=0, ge=0, le=1_000_000)
    """Monthly cost at which `alarmEmail` is told; 0 makes no budget. It counts what has the tag `stack`,
    which the account's billing settings must have activated."""

    @model_validator(mode="after")
    def _whole_host(self) -> Self:
        for name, alias in (("zone_id", "zoneId"), ("certificate_arn", "certificateArn")):
            if getattr(self, name) and not self.domain:
                raise ValueError(f"domain: is missing, and {alias} is there; allowed: a name of yours")
        for name, alias in (("alarm_email", "alarmEmail"), ("budget_usd", "budgetUsd")):
            if getattr(self, name) and not self.alarms:
                raise ValueError(f"alarms: is off, and {alias} is there; allowed: alarms: true")
        if self.budget_usd and not self.alarm_email:
            raise ValueError("alarmEmail: is missing, and budgetUsd is there; allowed: an e-mail address")
        size = fargate_size(self.dispatcher_cpu, self.dispatcher_memory_mb)
        wanted = (self.dispatcher_cpu * 1024, self.dispatcher_memory_mb)
        if wanted != (size.cpu, size.memory_mb):
            raise ValueError(
                f"dispatcherMemoryMb: {self.dispatcher_memory_mb} with dispatcherCpu {self.dispatcher_cpu:g} "
                f"is no size of Fargate; allowed: {size.memory_mb} with {size.cpu / 1024:g}, the next larger"
            )
        return self


class AwsKeys(CloudKeys):
    """Keys of the cloud `aws`."""

    aws: AwsConfig = AwsConfig()
    """Keys of the cloud `aws`. See docs/aws.md."""
