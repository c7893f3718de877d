"""The network of a placement: a VPC with one subnet, or an existing one, and the bots' firewall rule.

VMs get a public address each, unless Cloud NAT is asked for: a gateway costs by the VM and hour, and $0.045
for each GB of a call's media. Nothing reaches them, since a VPC lets nothing in without a rule, and the one
rule is for UDP where agents offer `webrtc`. (An existing network may have rules of its own: `default` has.)
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_gcp as gcp

ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True)
class NetworkArgs:
    prefix: str
    project: str
    region: str
    cidr: str
    """Addresses of the subnet."""
    network: str
    """An existing network; empty: one is made."""
    subnetwork: str
    """Subnet of the existing network."""
    udp_ports: tuple[int, int] | None
    """Ports of bots that callers reach directly; None where no agent offers `webrtc`."""
    nat: bool
    """Make a way out for VMs without a public address."""


class Network(pulumi.ComponentResource):
    """The network, its subnet, and the rules for VMs with the bots' tag."""

    network: pulumi.Output[str]
    """Self link."""
    subnetwork: pulumi.Output[str]
    """`projects/P/regions/R/subnetworks/NAME`."""
    subnetwork_name: pulumi.Output[str]
    tag: str
    """Network tag of bots' VMs."""

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("switchboard:gcp:Network", name, None, opts)
        within = pulumi.ResourceOptions(parent=self)
        self.tag = f"{args.prefix}-bots"
        if args.network:
            self.network = pulumi.Output.from_input(f"projects/{args.project}/global/networks/{args.network}")
            self.subnetwork_name = pulumi.Output.from_input(args.subnetwork)
            self.subnetwork = pulumi.Output.from_input(
                f"projects/{args.project}/regions/{args.region}/subnetworks/{args.subnetwork}"
            )
        else:
            network = gcp.compute.Network(
                f"{name}-network",
                project=args.project,
                name=args.prefix,
                auto_create_subnetworks=False,
                description="Switchboard: bots",
                opts=within,
            )
            subnet = gcp.compute.Subnetwork(
                f"{name}-subnet",
                project=args.project,
                region=args.region,
                name=args.prefix,
                network=network.id,
                ip_cidr_range=args.cidr,
                # VMs without a public address reach Google's own APIs.
                private_ip_google_access=True,
                opts=within,
            )
            self.network, self.subnetwork, self.subnetwork_name = network.id, subnet.id, subnet.name
        if args.udp_ports is not None:
            first, last = args.udp_ports
            gcp.compute.Firewall(
                f"{name}-media",
                project=args.project,
                name=f"{args.prefix}-media",
                network=self.network,
                description="Media of calls over webrtc, which callers send first",
                direction="INGRESS",
                allows=[gcp.compute.FirewallAllowArgs(protocol="udp", ports=[f"{first}-{last}"])],
                source_ranges=[ANYWHERE],
                target_tags=[self.tag],
                opts=within,
            )
        if args.nat:
            self._nat(name, args, within)
        self.register_outputs({})

    def _nat(self, name: str, args: NetworkArgs, within: pulumi.ResourceOptions) -> None:
        router = gcp.compute.Router(
            f"{name}-router",
            project=args.project,
            region=args.region,
            name=args.prefix,
            network=self.network,
            opts=within,
        )
        gcp.compute.RouterNat(
            f"{name}-nat",
            project=args.project,
            region=args.region,
            name=args.prefix,
            router=router.name,
            nat_ip_allocate_option="AUTO_ONLY",
            source_subnetwork_ip_ranges_to_nat="LIST_OF_SUBNETWORKS",
            subnetworks=[
                gcp.compute.RouterNatSubnetworkArgs(
                    name=self.subnetwork, source_ip_ranges_to_nats=["ALL_IP_RANGES"]
                )
            ],
            # A port that a STUN server saw is the one that any peer reaches.
            enable_endpoint_independent_mapping=True,
            enable_dynamic_port_allocation=False,
            opts=within,
        )
