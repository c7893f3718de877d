"""Tables of nftables over netlink: the kernel's uapi headers linux/netlink.h, nfnetlink.h and nf_tables.h.

It is written here, and not asked of the program `nft`, so that the image needs nothing of Debian's beside
what it has. `nft list ruleset` on the host shows the tables all the same.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from dispatcher.firewall.expressions import (
    NESTED,
    Chain,
    Family,
    Table,
    Verdict,
    aligned,
    attributes,
    be32,
    pairs,
    text,
)

NETLINK_NETFILTER = 12
SECONDS = 5.0
"""Limit on an answer of the kernel."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
NLM_F_DUMP_INTERRUPTED, NLM_F_DUMP = 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 0x2, 0x3
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES."""
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE, NEWGEN, GETGEN = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    15,
    16,
)
HEADER_BYTES = 4
"""struct nfgenmsg, before a message's attributes."""

RECEIVE_BYTES = 256 * 1024
BUFFER_BYTES = 4 * 1024 * 1024
"""Limit on a batch, which the kernel takes whole: one with messages.MOST_SERVICES has 0.4 MiB. Above
a host's net.core.wmem_max it needs NET_ADMIN of the host itself."""


class Refused(OSError):
    """The kernel refuses a request: the text says which, and its error."""


class Nftables:
    """The nftables of this network namespace; needs NET_ADMIN."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.settimeout(SECONDS)
        for forced, usual in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, usual, BUFFER_BYTES)
        # Without it each error brings its whole request back.
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    def generation(self) -> int:
        """Return the number that each change of any table increases."""
        kind, _, content = self._ask(GETGEN, Family.INET, NLM_F_REQUEST, b"")
        if kind != SUBSYSTEM << 8 | NEWGEN:
            raise Refused(errno.EPROTO, f"nftables: an answer of kind {kind} to GETGEN")
        # A header of nfgenmsg, then NFTA_GEN_ID.
        return struct.unpack_from("!I", content, 8)[0]

    def has(self, family: Family, name: str) -> bool:
        return self._found(GETTABLE, family, attributes([(1, text(name))])) is not None

    def matches(self, tables: Iterable[Table]) -> bool:
        """Return True if the kernel has these tables as `replace` makes them."""
        return all(self._matches(table) for table in tables)

    def _matches(self, table: Table) -> bool:
        name = (1, text(table.name))
        made = self._found(GETTABLE, table.family, attributes([name]))
        if made is None or not _has(made, _table(table)):
            return False
        for chain in table.chains:
            found = self._found(GETCHAIN, table.family, attributes([name, (3, text(chain.name))]))
            if found is None or not _has(found, _chain(table, chain)):
                return False
        rules = self._rules(table)
        wanted = [_rule(table, chain, rule) for chain in table.chains for rule in chain.rules]
        return (
            rules is not None
            and len(rules) == len(wanted)
            and all(_has(found, one) for found, one in zip(rules, wanted, strict=True))
        )

    def _found(self, kind: int, family: Family, content: bytes) -> bytes | None:
        """Return the attributes of what is asked for; None if it is not there."""
        try:
            return self._ask(kind, family, NLM_F_REQUEST, content)[2][HEADER_BYTES:]
        except Refused as error:
            if error.errno == errno.ENOENT:
                return None
            raise

    def _rules(self, table: Table) -> list[bytes] | None:
        """Return the attributes of a table's rules, chain by chain; None if they changed meanwhile."""
        number, flags = next(self._sequence), NLM_F_REQUEST | NLM_F_DUMP
        named = attributes([(1, text(table.name))])
        self._socket.send(_message(SUBSYSTEM << 8 | GETRULE, table.family, 0, flags, number, named))
        found: dict[bytes, list[bytes]] = {text(chain.name): [] for chain in table.chains}
        whole = True
        while True:
            for kind, answered, content, said in self._received():
                if answered != number:
                    continue
                whole = whole and not said & NLM_F_DUMP_INTERRUPTED
                if kind == NLMSG_DONE:
                    return [rule for rules in found.values() for rule in rules] if whole else None
                if kind == NLMSG_ERROR:
                    raise _refused(_error(content), NAMES[GETRULE])
                rule = content[HEADER_BYTES:]
                given = dict(pairs(rule))
                if content[0] == table.family and given[1] == text(table.name):
                    found.setdefault(given[2], []).append(rule)

    def replace(self, tables: Sequence[Table]) -> None:
        """Make the tables anew in one transaction: no packet passes between the old rules and the new.

        Raises:
            Refused: the kernel refuses, and all is as it was.
        """
        self._commit([message for table in tables for message in _of_table(table)])

    def remove(self, tables: Iterable[tuple[Family, str]]) -> None:
        """Delete tables; fine if there are none."""
        self._commit([message for family, name in tables for message in _removed(family, name)])

    def _commit(self, messages: Sequence[tuple[int, Family, int, bytes]]) -> None:
        first = next(self._sequence)
        parts = [_message(BATCH_BEGIN, 0, SUBSYSTEM, NLM_F_REQUEST, first, b"")]
        # An error about the first is about the whole batch.
        sent, last = {first: "a batch"}, first + len(messages)
        for kind, family, flags, content in messages:
            number = next(self._sequence)
            sent[number] = f"{NAMES[kind]} of {family.name.lower()}"
            # Errors are answered in any case. An answer to each message would be more than a socket holds.
            flags |= NLM_F_REQUEST | (NLM_F_ACK if number == last else 0)
            parts.append(_message(SUBSYSTEM << 8 | kind, family, 0, flags, number, content))
        parts.append(_message(BATCH_END, 0, SUBSYSTEM, NLM_F_REQUEST, next(self._sequence), b""))
        batch = b"".join(parts)
        try:
            self._socket.send(batch)
        except OSError as error:
            raise _refused(error.errno or 0, f"a batch of {len(batch)} bytes") from error
        # All errors come before the answer to the last message, and the first error is the cause.
        failed: Refused | None = None
        while True:
            for kind, number, content, _ in self._received():
                if number not in sent:
                    # Of an earlier request that was given up.
                    continue
                code = _error(content) if kind == NLMSG_ERROR else 0
                if code and failed is None:
                    failed = _refused(code, sent[number])
                if number not in (first, last):
                    continue
                if failed is not None:
                    raise failed
                return

    def _ask(self, kind: int, family: Family, flags: int, content: bytes) -> tuple[int, int, bytes]:
        number = next(self._sequence)
        self._socket.send(_message(SUBSYSTEM << 8 | kind, family, 0, flags, number, content))
        while True:
            for answer, answered, found, _ in self._received():
                if answered != number:
                    continue
                if answer == NLMSG_ERROR and (code := _error(found)):
                    raise _refused(code, NAMES[kind])
                return answer, answered, found

    def _received(self) -> list[tuple[int, int, bytes, int]]:
        """Return messages as kind, sequence number, content and flags."""
        data = self._socket.recv(RECEIVE_BYTES)
        found: list[tuple[int, int, bytes, int]] = []
        while len(data) >= 16:
            length, kind, flags, number, _ = struct.unpack_from("=IHHII", data)
            found.append((kind, number, data[16:length], flags))
            data = data[aligned(length) :]
        return found


NAMES = {
    NEWTABLE: "NEWTABLE",
    GETTABLE: "GETTABLE",
    DELTABLE: "DELTABLE",
    NEWCHAIN: "NEWCHAIN",
    GETCHAIN: "GETCHAIN",
    NEWRULE: "NEWRULE",
    GETRULE: "GETRULE",
    GETGEN: "GETGEN",
}


def _of_table(table: Table) -> Iterable[tuple[int, Family, int, bytes]]:
    yield from _removed(table.family, table.name)
    yield NEWTABLE, table.family, NLM_F_CREATE, _table(table)
    for chain in table.chains:
        yield NEWCHAIN, table.family, NLM_F_CREATE, _chain(table, chain)
        for rule in chain.rules:
            yield NEWRULE, table.family, NLM_F_CREATE | NLM_F_APPEND, _rule(table, chain, rule)


def _table(table: Table) -> bytes:
    return attributes([(1, text(table.name)), (2, be32(0))])


def _chain(table: Table, chain: Chain) -> bytes:
    hook = attributes([(1, be32(chain.hook)), (2, struct.pack("!i", chain.priority))])
    return attributes(
        [
            *((1, text(table.name)), (3, text(chain.name)), (4 | NESTED, hook)),
            *((5, be32(Verdict.ACCEPT)), (7, text("filter"))),
        ]
    )


def _rule(table: Table, chain: Chain, rule: Sequence[bytes]) -> bytes:
    return attributes([(1, text(table.name)), (2, text(chain.name)), (4 | NESTED, b"".join(rule))])


def _has(found: bytes, wanted: bytes) -> bool:
    """Return True if these attributes are the wanted ones, beside what the kernel adds: handles, defaults.

    Of a list, such as a rule's expressions, all elements are wanted ones.
    """
    left = [(kind & ~NESTED, value) for kind, value in pairs(found)]
    for kind, value in (given := pairs(wanted)):
        place = next((place for place, one in enumerate(left) if one[0] == kind & ~NESTED), None)
        if place is None:
            return False
        there = left.pop(place)[1]
        if not (_has(there, value) if kind & NESTED else there == value):
            return False
    kinds = {kind & ~NESTED for kind, _ in given}
    return not any(kind in kinds for kind, _ in left)


def _removed(family: Family, name: str) -> Iterable[tuple[int, Family, int, bytes]]:
    """Make the table, which is fine if it is there, and delete it: deleting what is not there is an error."""
    named = attributes([(1, text(name))])
    yield NEWTABLE, family, NLM_F_CREATE, named
    yield DELTABLE, family, 0, named


def _message(kind: int, family: int, resource: int, flags: int, number: int, content: bytes) -> bytes:
    content = struct.pack("!BBH", family, 0, resource) + content
    return struct.pack("=IHHII", 16 + len(content), kind, flags, number, 0) + content


def _error(content: bytes) -> int:
    return -struct.unpack_from("=i", content)[0]


def _refused(code: int, what: str) -> Refused:
    return Refused(code, f"nftables: the kernel refuses {what}: {os.strerror(code)}")
