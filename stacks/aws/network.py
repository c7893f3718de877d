"""The network of a placement: a VPC with public subnets, or an existing one, and the bots' security group.

Bots get a public address each: a NAT gateway would cost $32 a month and $0.045 for each GB of a call's media.
Nothing reaches them, since their security group lets nothing in, except UDP where agents offer `webrtc`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

ANYWHERE = "0.0.0.0/0"

INTERFACE_SERVICES = ("ecr.api", "ecr.dkr", "logs", "secretsmanager", "ssm")
"""Services that a task calls before its bot runs: image, log and secrets."""


@dataclass(frozen=True)
class NetworkArgs:
    region: str
    zones: Sequence[str]
    """Availability zones, such as us-east-1a; a subnet in each. A task goes to one that has capacity."""
    cidr: str
    """Addresses of the VPC."""
    vpc_id: str
    """An existing VPC; empty: one is made."""
    subnet_ids: Sequence[str]
    """Public subnets of the existing VPC."""
    udp_ports: tuple[int, int] | None
    """Ports of bots that callers reach directly; None where no agent offers `webrtc`."""
    interface_endpoints: bool
    """Reach AWS's own services by addresses of the VPC."""
    tags: Mapping[str, str]


class Network(pulumi.ComponentResource):
    """The VPC, its public subnets and the security group of bots."""

    vpc_id: pulumi.Output[str]
    subnet_ids: list[pulumi.Output[str]]
    bots: aws.ec2.SecurityGroup

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:aws:Network", name, None, opts)
        self._name, self._args = name, args
        self._within = pulumi.ResourceOptions(parent=self)
        if args.vpc_id:
            self.vpc_id = pulumi.Output.from_input(args.vpc_id)
            self.subnet_ids = [pulumi.Output.from_input(one) for one in args.subnet_ids]
        else:
            self._make()
        self.bots = self._group("bots", "Switchboard bots: out only, and UDP of calls over webrtc")
        if args.udp_ports is not None:
            first, last = args.udp_ports
            aws.vpc.SecurityGroupIngressRule(
                f"{name}-bots-media",
                security_group_id=self.bots.id,
                description="Media of calls over webrtc, which callers send first",
                ip_protocol="udp",
                cidr_ipv4=ANYWHERE,
                from_port=first,
                to_port=last,
                tags=args.tags,
                opts=self._within,
            )
        if args.interface_endpoints:
            self._interface_endpoints()
        self.register_outputs({})

    def _make(self) -> None:
        name, args = self._name, self._args
        vpc = aws.ec2.Vpc(
            f"{name}-vpc",
            cidr_block=args.cidr,
            enable_dns_support=True,
            # Names of interface endpoints and of a database resolve inside.
            enable_dns_hostnames=True,
            tags=self._tags(),
            opts=self._within,
        )
        gateway = aws.ec2.InternetGateway(
            f"{name}-gateway", vpc_id=vpc.id, tags=self._tags(), opts=self._within
        )
        table = aws.ec2.RouteTable(f"{name}-routes", vpc_id=vpc.id, tags=self._tags(), opts=self._within)
        out = aws.ec2.Route(
            f"{name}-out",
            route_table_id=table.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=gateway.id,
            opts=self._within,
        )
        subnets = []
        for zone, block in zip(args.zones, subnet_blocks(args.cidr, len(args.zones)), strict=True):
            subnet = aws.ec2.Subnet(
                f"{name}-{zone}",
                vpc_id=vpc.id,
                availability_zone=zone,
                cidr_block=block,
                # Each task asks for its own public address.
                map_public_ip_on_launch=False,
                tags=self._tags(zone),
                opts=self._within,
            )
            aws.ec2.RouteTableAssociation(
                f"{name}-{zone}-routes", route_table_id=table.id, subnet_id=subnet.id, opts=self._within
            )
            subnets.append(subnet)
        # Free, and ECR keeps the layers of images in S3.
        aws.ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=vpc.id,
            service_name=f"com.amazonaws.{args.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id],
            tags=self._tags("s3"),
            opts=self._within,
        )
        self.vpc_id = vpc.id
        # A task in a subnet without a way out would not get its image.
        self.subnet_ids = [pulumi.Output.all(one.id, out.id).apply(lambda ids: ids[0]) for one in subnets]

    def _group(self, part: str, description: str) -> aws.ec2.SecurityGroup:
        group = aws.ec2.SecurityGroup(
            f"{self._name}-{part}",
            description=description,
            vpc_id=self.vpc_id,
            tags=self._tags(part),
            opts=self._within,
        )
        aws.vpc.SecurityGroupEgressRule(
            f"{self._name}-{part}-out",
            security_group_id=group.id,
            description="To media servers, AI services and the dispatcher",
            ip_protocol="-1",
            cidr_ipv4=ANYWHERE,
            tags=self._args.tags,
            opts=self._within,
        )
        return group

    def _interface_endpoints(self) -> None:
        group = aws.ec2.SecurityGroup(
            f"{self._name}-endpoints",
            description="Switchboard: interface endpoints, for bots alone",
            vpc_id=self.vpc_id,
            tags=self._tags("endpoints"),
            opts=self._within,
        )
        aws.vpc.SecurityGroupIngressRule(
            f"{self._name}-endpoints-from-bots",
            security_group_id=group.id,
            description="HTTPS of bots",
            ip_protocol="tcp",
            from_port=443,
            to_port=443,
            referenced_security_group_id=self.bots.id,
            tags=self._args.tags,
            opts=self._within,
        )
        for service in INTERFACE_SERVICES:
            aws.ec2.VpcEndpoint(
                f"{self._name}-{service.replace('.', '-')}",
                vpc_id=self.vpc_id,
                service_name=f"com.amazonaws.{self._args.region}.{service}",
                vpc_endpoint_type="Interface",
                subnet_ids=self.subnet_ids,
                security_group_ids=[group.id],
                private_dns_enabled=True,
                tags=self._tags(service),
                opts=self._within,
            )

    def _tags(self, part: str = "") -> dict[str, str]:
        """Return the tags, with the name that AWS's console shows."""
        stack = "-".join(filter(None, (self._args.tags.get("project"), self._args.tags.get("stack"), part)))
        return {**self._args.tags, "Name": stack or self._name}


def subnet_blocks(cidr: str, number: int) -> list[str]:
    """Split the VPC's addresses into blocks for so many subnets, all of one size.

    A change of the number from 2 to 3 or 4 would move none: there are always at least 4 blocks.
    """
    network = ipaddress.ip_network(cidr)
    bits = max((number - 1).bit_length(), 2)
    return [str(block) for block in list(network.subnets(prefixlen_diff=bits))[:number]]
