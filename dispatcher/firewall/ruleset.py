"""Rules of the bots' network: pure, from a network to nftables' tables.

Calls need the internet and private networks, in which callers of a home lab are, so these stay open. Closed
are metadata addresses, the engine's host and other bots. In nft's words, with the services being all
containers of the network that are no bots:

    table inet NAME {
        chain forward { type filter hook forward priority -10; policy accept;
            iifname != BRIDGE accept
            udp/tcp dport 53 accept
            ip daddr METADATA drop
            ct state established,related ct direction reply accept
            ether saddr SERVICE ip saddr SERVICE accept
            udp/tcp dport TURN accept
            ct status dnat drop             # a port that the host publishes
        }
        chain input { type filter hook input priority -10; policy accept;
            iifname != BRIDGE accept
            udp/tcp dport 53 accept
            ip daddr METADATA drop
            ct state established,related ct direction reply accept
            ether saddr SERVICE ip saddr SERVICE accept
            udp/tcp dport TURN accept
            ip daddr 224.0.0.251 udp dport 5353 accept
            icmpv6 type neighbour discovery accept
            drop
        }
    }
    table bridge NAME {
        chain forward { type filter hook forward priority -200; policy accept;
            ether saddr SERVICE ip saddr SERVICE accept
            ip daddr SERVICE accept
            icmpv6 type neighbour discovery accept
            meta ibrname BRIDGE meta protocol { ip, ip6 } drop
        }
    }

Connections are judged packet by packet: of those that bots have opened, one from a time without rules ends.
A service is told by its hardware address too, because a program without capabilities may send from any IPv6
address (IPV6_FREEBIND), but not from another hardware address.

A kernel without nft_meta_bridge does not tell a bridge's name. There the bridge's last rule is

            ip saddr SUBNET ip daddr { SUBNET, multicast and broadcast } drop

which also cuts off another network with the same addresses, and cannot close IPv6.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dispatcher.firewall.expressions import (
    Base,
    Chain,
    Compare,
    Ct,
    Expression,
    Family,
    Hook,
    Meta,
    Table,
    Verdict,
    compared,
    ct,
    masked,
    meta,
    payload,
    verdict,
)

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Rule: TypeAlias = tuple[Expression, ...]

METADATA = tuple(
    ipaddress.ip_network(text)
    for text in (
        # Link-local: AWS, Google Cloud, Azure, Oracle, DigitalOcean, Hetzner, and ECS's 169.254.170.2.
        "169.254.0.0/16",
        # Alibaba Cloud, Oracle's older address, and Azure's host.
        *("100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
        # The same by IPv6: AWS with its addresses for containers, Google Cloud, Oracle, Akamai (Linode),
        *("fd00:ec2::/32", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128", "fd00:a9fe:a9fe::1/128"),
        # Scaleway, Alibaba Cloud, and OpenStack with the clouds that are made of it.
        *("fd00:42::42/128", "fd00:100::100:200/128", "fe80::a9fe:a9fe/128"),
    )
)
"""Addresses at which clouds tell a machine about itself, with its rights."""

DNS = 53
"""Resolvers may be at metadata addresses (AWS 169.254.169.253, Google Cloud 169.254.169.254, Azure
168.63.129.16) and on the host itself. The engine asks some of them from within the container."""

MDNS, MDNS_PORT = ipaddress.ip_network("224.0.0.251/32"), 5353
"""Browsers name their own addresses `….local` (RFC 8828), which a bot looks up there."""

TCP, UDP, ICMPV6 = 6, 17, 58
ETHERNET = {4: 0x0800, 6: 0x86DD}
"""Types of frames."""
NFPROTO = {4: 2, 6: 10}
SOURCE, DESTINATION = {4: 12, 6: 8}, {4: 16, 6: 24}
"""Offsets of the addresses in IP's headers (RFC 791, RFC 8200)."""
DISCOVERY = (133, 136)
"""ICMPv6's types of neighbour discovery (RFC 4861)."""
GROUPS = {4: (ipaddress.ip_network("224.0.0.0/3"),)}
"""Multicast, and above it broadcast. IPv6 needs its multicast for neighbour discovery."""

ESTABLISHED_OR_RELATED = 1 << 1 | 1 << 2
"""NF_CT_STATE_BIT of linux/netfilter/nf_conntrack_common.h."""
DESTINATION_NAT = 1 << 5
"""IPS_DST_NAT, likewise."""
REPLY = b"\x01"
"""IP_CT_DIR_REPLY of linux/netfilter/nf_conntrack_tuple_common.h."""

HARDWARE_SOURCE, HARDWARE_BYTES = 6, 6
"""Offset and length of the source's address in Ethernet's header (IEEE 802.3)."""

BEFORE_FILTER = -10
"""Before the engine's own chains, which are at 0: a verdict to accept there ends nothing here."""
BRIDGED = -200
"""NF_BR_PRI_FILTER_BRIDGED."""


@dataclass(frozen=True)
class Ports:
    """Ports of the host that bots may reach."""

    protocol: int
    first: int
    last: int


@dataclass(frozen=True)
class Service:
    """One address of a container that is no bot."""

    address: Network
    hardware: bytes


@dataclass(frozen=True)
class Bots:
    """A network that bots are in."""

    bridge: str
    """Name of its interface on the host."""
    subnets: tuple[Network, ...]
    services: tuple[Service, ...]


def tables(name: str, bots: Bots, reached: Sequence[Ports], named: bool = True) -> tuple[Table, Table]:
    """Return the tables that close the network.

    Args:
        reached: Ports of the host's that bots need: the TURN server's.
        named: The kernel has nft_meta_bridge.
    """
    accepted, dropped = (verdict(Verdict.ACCEPT),), (verdict(Verdict.DROP),)
    dns = (Ports(protocol, DNS, DNS) for protocol in (TCP, UDP))
    shared = [
        _if(meta(Meta.IIFNAME), Compare.NOT_EQUAL, _name(bots.bridge)) + accepted,
        *(_port(ports) + accepted for ports in dns),
        *(_inet(DESTINATION, network) + dropped for network in METADATA),
        _bits(Ct.STATE, ESTABLISHED_OR_RELATED) + _if(ct(Ct.DIRECTION), Compare.EQUAL, REPLY) + accepted,
        *(_hardware(one) + _inet(SOURCE, one.address) + accepted for one in bots.services),
        *(_port(ports) + accepted for ports in reached),
    ]
    forward = [*shared, _bits(Ct.STATUS, DESTINATION_NAT) + dropped]
    inward = [
        *shared,
        _inet(DESTINATION, MDNS) + _port(Ports(UDP, MDNS_PORT, MDNS_PORT)) + accepted,
        _discovery() + accepted,
        dropped,
    ]
    return (
        Table(
            Family.INET,
            name,
            (
                Chain("forward", Hook.FORWARD, BEFORE_FILTER, tuple(forward)),
                Chain("input", Hook.INPUT, BEFORE_FILTER, tuple(inward)),
            ),
        ),
        Table(Family.BRIDGE, name, (Chain("forward", Hook.FORWARD, BRIDGED, tuple(_bridged(bots, named))),)),
    )


def _bridged(bots: Bots, named: bool) -> Iterator[Rule]:
    accepted, dropped = (verdict(Verdict.ACCEPT),), (verdict(Verdict.DROP),)
    for one in bots.services:
        yield _hardware(one) + _frame(SOURCE, one.address) + accepted
        yield _frame(DESTINATION, one.address) + accepted
    if named:
        yield _discovery() + accepted
        bridge = _if(meta(Meta.BRIDGE_IIFNAME), Compare.EQUAL, _name(bots.bridge))
        for version in ETHERNET:
            yield bridge + _kind(version) + dropped
        return
    for subnet in bots.subnets:
        others = [one for one in bots.subnets if one.version == subnet.version]
        for to in (*others, *GROUPS.get(subnet.version, ())):
            yield _frame(SOURCE, subnet) + _address(DESTINATION, to) + dropped


def _if(loaded: Expression, how: Compare, value: bytes) -> Rule:
    return loaded, compared(how, value)


def _name(interface: str) -> bytes:
    """Return an interface's name as the register has it: IFNAMSIZ bytes."""
    return interface.encode().ljust(16, b"\0")


def _bits(key: Ct, bits: int) -> Rule:
    """Match if one of the bits is set. These registers are in the host's byte order."""
    mask = bits.to_bytes(4, sys.byteorder)
    return ct(key), masked(mask), compared(Compare.NOT_EQUAL, bytes(4))


def _inet(offsets: dict[int, int], network: Network) -> Rule:
    family = struct.pack("B", NFPROTO[network.version])
    return _if(meta(Meta.NFPROTO), Compare.EQUAL, family) + _address(offsets, network)


def _frame(offsets: dict[int, int], network: Network) -> Rule:
    return _kind(network.version) + _address(offsets, network)


def _kind(version: int) -> Rule:
    return _if(meta(Meta.PROTOCOL), Compare.EQUAL, struct.pack("!H", ETHERNET[version]))


def _hardware(service: Service) -> Rule:
    return _if(payload(Base.LINK, HARDWARE_SOURCE, HARDWARE_BYTES), Compare.EQUAL, service.hardware)


def _discovery() -> Rule:
    return _l4(ICMPV6) + _between(payload(Base.TRANSPORT, 0, 1), DISCOVERY, "!B")


def _address(offsets: dict[int, int], network: Network) -> Rule:
    length = network.max_prefixlen // 8
    loaded = payload(Base.NETWORK, offsets[network.version], length)
    same = compared(Compare.EQUAL, network.network_address.packed)
    if network.prefixlen == network.max_prefixlen:
        return loaded, same
    return loaded, masked(network.netmask.packed), same


def _l4(protocol: int) -> Rule:
    return _if(meta(Meta.L4PROTO), Compare.EQUAL, struct.pack("B", protocol))


def _port(ports: Ports) -> Rule:
    """Match a destination port, which TCP and UDP have at the same place."""
    loaded = payload(Base.TRANSPORT, 2, 2)
    return _l4(ports.protocol) + _between(loaded, (ports.first, ports.last), "!H")


def _between(loaded: Expression, bounds: tuple[int, int], form: str) -> Rule:
    first, last = (struct.pack(form, bound) for bound in bounds)
    return loaded, compared(Compare.AT_LEAST, first), compared(Compare.AT_MOST, last)
