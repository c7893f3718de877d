"""Keep the rules: at the proxy's word, and again when somebody else has changed the host's tables."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dispatcher.firewall import messages
from dispatcher.firewall.expressions import Family, Table
from dispatcher.firewall.messages import MOST_BYTES
from dispatcher.firewall.ruleset import Bots, Ports, tables

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Between two looks for changes of the host's tables, such as firewalld's at its restart."""

CLIENT_SECONDS = 2.0
"""Limit on a request, of the proxy's alone: others wait behind it."""

NOT_KNOWN = (errno.EOPNOTSUPP, errno.ENOENT)
"""Errors of a kernel that lacks what a rule needs."""

NOT_TOLD = "no network is known yet: the engine's proxy has not told it"


class Unheld(Exception):
    """The rules are not there: the text says why."""


class Kernel(Protocol):
    """nftables, as `netlink.Nftables` has them."""

    def generation(self) -> int: ...

    def matches(self, tables: Sequence[Table]) -> bool: ...

    def replace(self, tables: Sequence[Table]) -> None: ...

    def remove(self, tables: Sequence[tuple[Family, str]]) -> None: ...


class Firewall:
    """Rules of one network.

    Args:
        name: Of its tables.
        reached: Ports of the host's that bots need.
        index: Gives an interface's index; raises OSError if there is none.
    """

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        reached: Sequence[Ports] = (),
        index: Callable[[str], int] = socket.if_nametoindex,
    ) -> None:
        self._kernel = kernel
        self._name = name
        self._reached = reached
        self._index = index
        self._bots: Bots | None = None
        self._generation: int | None = None
        """Generation of the host's tables at which ours were right; None while they are not."""
        self._named = True
        """True unless the kernel was seen to lack nft_meta_bridge."""
        self._error = ""

    def hold(self, bots: Bots) -> None:
        """Keep this network's rules from now on. Raises Unheld if they cannot be made."""
        if bots != self._bots:
            self._bots, self._generation = bots, None
        self.check()

    def check(self) -> None:
        """Return once the rules are there; make them anew after others' changes. Raises Unheld."""
        if self._bots is None:
            raise Unheld(NOT_TOLD)
        try:
            self._index(self._bots.bridge)
        except OSError:
            raise Unheld(
                f"the interface {self._bots.bridge} of the bots' network is not in the network that this "
                "container shares: is the engine rootless, or in another virtual machine?"
            ) from None
        try:
            if (before := self._kernel.generation()) != self._generation:
                self._generation = before + self._changes(self._bots)
        except OSError as error:
            self._generation = None
            raise Unheld(error.strerror or str(error)) from error

    def _changes(self, bots: Bots) -> int:
        """Make the tables anew unless they are right; return by how much that adds to the generation.

        The generation is not asked again: a change of others right before or after ours would go unseen.
        Others' changes to their own tables lead to none of ours: two stacks on a host would else make their
        tables anew for ever, each after the other.
        """
        wanted = self._tables(bots)
        if self._kernel.matches(wanted):
            return 0
        try:
            self._kernel.replace(wanted)
        except OSError as error:
            if not self._named or error.errno not in NOT_KNOWN:
                raise
            self._named = False
            self._kernel.replace(self._tables(bots))
            log.warning("the kernel has no nft_meta_bridge: bots are kept from each other by their subnets")
        return 1

    def _tables(self, bots: Bots) -> tuple[Table, Table]:
        """Raises Unheld for a network that cannot be closed."""
        if not self._named and (sixth := [str(one) for one in bots.subnets if one.version == 6]):
            raise Unheld(
                f"the bots' network has IPv6 ({', '.join(sixth)}), which this kernel cannot close without "
                "nft_meta_bridge: load that module, or make the network without IPv6 (the engine's "
                "default-network-opts)"
            )
        return tables(self._name, bots, self._reached, self._named)

    def remove(self) -> None:
        """Take the rules away, until the next `hold`."""
        self._bots = self._generation = None
        self._kernel.remove([(family, self._name) for family in Family])

    def watch(self) -> None:
        """Check, if there is something to keep; log what changes."""
        if self._bots is None:
            return
        try:
            self.check()
            error = ""
        except Unheld as unheld:
            error = str(unheld)
        if error != self._error:
            self._error = error
            if error:
                log.error("the rules are not there: %s", error)
            else:
                log.warning("the rules are there again")

    def answer(self, line: bytes) -> bytes:
        """Do what a request says."""
        try:
            task, bots = messages.read(line)
            if bots is not None:
                self.hold(bots)
            elif task == "check":
                self.check()
            else:
                self.remove()
                log.warning("the rules were taken away, as asked")
        except (Unheld, ValueError, OSError) as error:
            return messages.answer(str(error) or type(error).__name__)
        return messages.answer("")


def serve(firewall: Firewall, path: Path, until: Callable[[], bool] = lambda: False) -> None:
    """Answer on this socket, and look for changes in between. The rules stay when it ends."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.listen()
        log.info("waiting for the bots' network on %s", path)
        due = time.monotonic()
        while not until():
            if (left := due - time.monotonic()) <= 0:
                firewall.watch()
                due, left = time.monotonic() + AGAIN_SECONDS, AGAIN_SECONDS
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(CLIENT_SECONDS)
                try:
                    connection.sendall(firewall.answer(_line_of(connection)))
                except OSError as error:
                    log.warning("a request was not answered: %s", error)


def _line_of(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) <= MOST_BYTES:
        if not (part := connection.recv(MOST_BYTES)):
            break
        line += part
    return line


def ask(path: Path, request: bytes) -> str:
    """Ask the firewall; gives its error, empty for none. Raises OSError if it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2 * CLIENT_SECONDS)
        connection.connect(str(path))
        connection.sendall(request)
        return messages.error_of(_line_of(connection))
