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

from dispatcher.firewall.expressions import NESTED, Family, Table, Verdict, aligned, attributes, be32, text

NETLINK_NETFILTER = 12
SECONDS = 5.0
"""Limit on an answer of the kernel."""

NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
NLMSG_ERROR = 0x2
BATCH_BEGIN, BATCH_END = 0x10, 0x11
SUBSYSTEM = 10
"""NFNL_SUBSYS_NFTABLES."""
NEWTABLE, GETTABLE, DELTABLE, NEWCHAIN, NEWRULE, NEWGEN, GETGEN = 0, 1, 2, 3, 6, 15, 16

RECEIVE_BYTES = 256 * 1024


class Refused(OSError):
    """The kernel refuses a request: the text says which, and its error."""


class Nftables:
    """The nftables of this network namespace; needs NET_ADMIN."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.settimeout(SECONDS)
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
        try:
            self._ask(GETTABLE, family, NLM_F_REQUEST, attributes([(1, text(name))]))
        except Refused as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

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
        batch = _message(BATCH_BEGIN, 0, SUBSYSTEM, NLM_F_REQUEST, next(self._sequence), b"")
        sent: dict[int, str] = {}
        for kind, family, flags, content in messages:
            number = next(self._sequence)
            sent[number] = f"{NAMES[kind]} of {family.name.lower()}"
            flags |= NLM_F_REQUEST | NLM_F_ACK
            batch += _message(SUBSYSTEM << 8 | kind, family, 0, flags, number, content)
        batch += _message(BATCH_END, 0, SUBSYSTEM, NLM_F_REQUEST, next(self._sequence), b"")
        self._socket.send(batch)
        # All answers are read, so that none is taken for a later request's; the first error is the cause.
        failed: Refused | None = None
        while sent:
            for kind, number, content in self._received():
                code = _error(content) if kind == NLMSG_ERROR else 0
                if number not in sent:
                    # The whole batch was refused, as for want of NET_ADMIN: its frame has no other answer.
                    if code:
                        raise _refused(code, "a batch")
                    continue
                what = sent.pop(number)
                if code and failed is None:
                    failed = _refused(code, what)
        if failed is not None:
            raise failed

    def _ask(self, kind: int, family: Family, flags: int, content: bytes) -> tuple[int, int, bytes]:
        number = next(self._sequence)
        self._socket.send(_message(SUBSYSTEM << 8 | kind, family, 0, flags, number, content))
        while True:
            for answer in self._received():
                if answer[1] != number:
                    continue
                if answer[0] == NLMSG_ERROR and (code := _error(answer[2])):
                    raise _refused(code, NAMES[kind])
                return answer

    def _received(self) -> list[tuple[int, int, bytes]]:
        """Return messages as kind, sequence number and content."""
        data = self._socket.recv(RECEIVE_BYTES)
        found: list[tuple[int, int, bytes]] = []
        while len(data) >= 16:
            length, kind, _, number, _ = struct.unpack_from("=IHHII", data)
            found.append((kind, number, data[16:length]))
            data = data[aligned(length) :]
        return found


NAMES = {
    NEWTABLE: "NEWTABLE",
    GETTABLE: "GETTABLE",
    DELTABLE: "DELTABLE",
    NEWCHAIN: "NEWCHAIN",
    NEWRULE: "NEWRULE",
    GETGEN: "GETGEN",
}


def _of_table(table: Table) -> Iterable[tuple[int, Family, int, bytes]]:
    family, name = table.family, text(table.name)
    yield from _removed(family, table.name)
    yield NEWTABLE, family, NLM_F_CREATE, attributes([(1, name)])
    for chain in table.chains:
        hook = attributes([(1, be32(chain.hook)), (2, struct.pack("!i", chain.priority))])
        yield (
            *(NEWCHAIN, family, NLM_F_CREATE),
            attributes(
                [
                    *((1, name), (3, text(chain.name)), (4 | NESTED, hook)),
                    *((5, be32(Verdict.ACCEPT)), (7, text("filter"))),
                ]
            ),
        )
        for rule in chain.rules:
            expressions = (4 | NESTED, b"".join(rule))
            content = attributes([(1, name), (2, text(chain.name)), expressions])
            yield NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, content


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
