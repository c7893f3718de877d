"""Tables, chains and expressions of nftables, as the kernel takes them: linux/netfilter/nf_tables.h."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

NESTED = 0x8000
"""NLA_F_NESTED of linux/netlink.h."""

REGISTER = 1
"""NFT_REG_1. Each test loads it and compares it, so one is enough."""


class Family(IntEnum):
    """Netfilter's families (linux/netfilter.h)."""

    INET = 1
    BRIDGE = 7


class Hook(IntEnum):
    """Hooks, of the same numbers in both families."""

    INPUT = 1
    FORWARD = 2


class Verdict(IntEnum):
    DROP = 0
    ACCEPT = 1


class Compare(IntEnum):
    """enum nft_cmp_ops."""

    EQUAL = 0
    NOT_EQUAL = 1
    AT_MOST = 3
    AT_LEAST = 5


class Base(IntEnum):
    """Headers of a packet: enum nft_payload_bases."""

    LINK = 0
    NETWORK = 1
    TRANSPORT = 2


class Meta(IntEnum):
    """enum nft_meta_keys."""

    PROTOCOL = 1
    IIFNAME = 6
    NFPROTO = 15
    L4PROTO = 16
    BRIDGE_IIFNAME = 17


class Ct(IntEnum):
    """enum nft_ct_keys."""

    STATE = 0
    DIRECTION = 1
    STATUS = 2


Expression = bytes
"""An encoded NFTA_LIST_ELEM."""


@dataclass(frozen=True)
class Chain:
    """A base chain of the type `filter`, whose policy is accept."""

    name: str
    hook: Hook
    priority: int
    rules: tuple[tuple[Expression, ...], ...]


@dataclass(frozen=True)
class Table:
    family: Family
    name: str
    chains: tuple[Chain, ...]


def meta(key: Meta) -> Expression:
    return _expression("meta", [(2, be32(key)), (1, be32(REGISTER))])


def ct(key: Ct) -> Expression:
    return _expression("ct", [(2, be32(key)), (1, be32(REGISTER))])


def payload(base: Base, offset: int, length: int) -> Expression:
    fields = ((1, REGISTER), (2, base), (3, offset), (4, length))
    return _expression("payload", [(kind, be32(value)) for kind, value in fields])


def masked(mask: bytes) -> Expression:
    """Keep these bits of the register."""
    return _expression(
        "bitwise",
        [
            *((1, be32(REGISTER)), (2, be32(REGISTER)), (3, be32(len(mask)))),
            *((4 | NESTED, _value(mask)), (5 | NESTED, _value(bytes(len(mask))))),
        ],
    )


def compared(how: Compare, value: bytes) -> Expression:
    return _expression("cmp", [(1, be32(REGISTER)), (2, be32(how)), (3 | NESTED, _value(value))])


def verdict(of: Verdict) -> Expression:
    code = attributes([(2 | NESTED, attributes([(1, be32(of))]))])
    return _expression("immediate", [(1, be32(0)), (2 | NESTED, code)])


def _expression(name: str, given: Iterable[tuple[int, bytes]]) -> Expression:
    data = (2 | NESTED, attributes(given))
    return attributes([(1 | NESTED, attributes([(1, text(name)), data]))])


def attributes(given: Iterable[tuple[int, bytes]]) -> bytes:
    packed = b""
    for kind, value in given:
        packed += struct.pack("=HH", 4 + len(value), kind) + value
        packed += bytes(aligned(len(packed)) - len(packed))
    return packed


def pairs(packed: bytes) -> list[tuple[int, bytes]]:
    """Return the attributes, as `attributes` takes them."""
    found: list[tuple[int, bytes]] = []
    while len(packed) >= 4:
        length, kind = struct.unpack_from("=HH", packed)
        found.append((kind, packed[4:length]))
        packed = packed[aligned(max(length, 4)) :]
    return found


def _value(value: bytes) -> bytes:
    return attributes([(1, value)])


def text(text: str) -> bytes:
    return text.encode() + b"\0"


def be32(value: int) -> bytes:
    return struct.pack("!I", value)


def aligned(length: int) -> int:
    return (length + 3) & ~3
