"""How many HTTP connections a dispatcher has: of clients that said who they are, and of all others.

A connection costs a file descriptor before anything is known of its client. Once too many have not
authenticated, the oldest of them is closed for the newest: a client that means to be served authenticates
within milliseconds, one that holds connections loses them. So strangers keep nobody out. Channels are
strangers' without a machine's token, and while they are closed; the others are not counted: what these limits
leave is theirs, the store's and the providers'.
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
"""Between two log lines about connections that were refused: an attack must not fill the log."""

Limit = Literal["address", "unauthenticated", "authenticated"]


class Connection(Protocol):
    def abort(self) -> None:
        """Close at once, without what is still to be sent."""
        ...


class Admissions:
    """Counts the connections of one server. Of its descriptors authenticated clients have at most half.

    Connections that have not authenticated have an eighth, those of one address half of that. The rest is
    kept for machines' channels, the store and the providers.
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
        """Count a new connection. Close the oldest that has not authenticated if there are too many."""
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
        """Count the connection no more: it is closed, or a WebSocket. Idempotent."""
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
    """Return the key by which addresses are counted: of IPv6 the /64, the least that a customer gets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
