"""Limits on a dispatcher's HTTP connections, of authenticated clients and of all others.

A connection costs a file descriptor before its client is known. Once too many are unauthenticated, the oldest
of these is closed for the newest: a client that means to be served authenticates within milliseconds, while
one that only holds connections loses them. So strangers lock nobody out.

A channel counts as unauthenticated until its machine's token is checked, and while it closes; in between it
is not counted. What these limits leave is for channels, the store and the providers.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from typing import Literal, Protocol

from dispatcher.repeated_warning import RepeatedWarning

log = logging.getLogger(__name__)

LOG_SECONDS = 60.0
"""Interval between log lines about refused connections: an attack must not fill the log."""

Limit = Literal["address", "unauthenticated", "authenticated"]


class Connection(Protocol):
    def abort(self) -> None:
        """Close at once, and drop unsent data."""
        ...


class Admissions:
    """Counts the connections of one server.

    Authenticated clients get at most half of its descriptors. Unauthenticated connections get an eighth, and
    those of one address half of that. The rest is for machines' channels, the store and the providers.
    """

    def __init__(
        self,
        descriptors: int,
        on_refused: Callable[[Limit], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_authenticated = max(1, descriptors // 2)
        self.max_strangers = max(2, descriptors // 8)
        self.max_of_address = self.max_strangers // 2
        self._on_refused = on_refused
        self._now = now
        # Dictionaries for their order: the oldest comes first.
        self._strangers: dict[Connection, str] = {}
        self._of_address: dict[str, dict[Connection, None]] = {}
        self._authenticated: set[Connection] = set()
        self._told = RepeatedWarning(
            log, "too many connections: %d refused since the last line like this: %s", LOG_SECONDS
        )

    def opened(self, connection: Connection, host: str) -> None:
        """Count a new connection. If too many are unauthenticated, close the oldest of these."""
        address = _address(host)
        same = self._of_address.setdefault(address, {})
        if len(same) >= self.max_of_address:
            self._close(next(iter(same)), "address")
        elif len(self._strangers) >= self.max_strangers:
            self._close(next(iter(self._strangers)), "unauthenticated")
        self._strangers[connection] = address
        self._of_address.setdefault(address, {})[connection] = None

    def admit(self, connection: Connection) -> bool:
        """Count the connection as an authenticated client's; False if there are too many of these."""
        if connection in self._authenticated:
            return True
        if len(self._authenticated) >= self.max_authenticated:
            self._tell("authenticated")
            return False
        self._forget_stranger(connection)
        self._authenticated.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        """Stop counting the connection: it is closed, or a WebSocket. Idempotent."""
        self._authenticated.discard(connection)
        self._forget_stranger(connection)

    def _close(self, connection: Connection, limit: Limit) -> None:
        self._forget_stranger(connection)
        connection.abort()
        self._tell(limit)

    def _forget_stranger(self, connection: Connection) -> None:
        address = self._strangers.pop(connection, None)
        if address is None:
            return
        same = self._of_address[address]
        del same[connection]
        if not same:
            del self._of_address[address]

    def _tell(self, limit: Limit) -> None:
        self._on_refused(limit)
        words = (
            f"{limit}; allowed are {self.max_strangers} that have not authenticated, "
            f"{self.max_of_address} of them from one address, and {self.max_authenticated} others"
        )
        self._told.warn(self._now(), words)


def _address(host: str) -> str:
    """Return the key by which addresses are counted: for IPv6 the /64, the least that a customer gets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
