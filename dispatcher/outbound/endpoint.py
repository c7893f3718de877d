"""The deployment's back end, as the dispatcher calls it.

A request goes only to a public address, or to one of the networks that the settings name: whoever can change
the name's DNS record must not reach the cloud's metadata address or a service inside (SSRF). The name is
resolved once, and the connection goes to the very address that was checked. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host and port. Raises OSError."""

CONNECTIONS = 16
"""Requests at the same time; the deliverer makes no more."""

_NOT_PUBLIC = (
    # Networks that Python takes for global, and that translate to IPv4 addresses of any kind.
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
)


class Undelivered(Exception):
    """The endpoint did not take the message. The text says why, without the URL's query."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
        """True if the endpoint wants no further attempt."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


def reachable(address: str, networks: Sequence[Network]) -> bool:
    """Return True if a webhook may be sent to this address."""
    found: Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if any(found in network for network in networks):
        return True
    translated = any(found in network for network in _NOT_PUBLIC)
    return found.is_global and not found.is_multicast and not translated


class Endpoint:
    """One URL that takes webhooks.

    Args:
        networks: Networks that are not public in which the endpoint may be.
        resolve: Resolves its name.
        transport: Sends the requests.
    """

    def __init__(
        self,
        url: str,
        networks: Sequence[Network] = (),
        *,
        resolve: Resolve = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = httpx.URL(url)
        self._networks = networks
        self._resolve = resolve
        # The deliverer limits the time of a whole attempt; httpx limits that of a read.
        self._client = httpx.AsyncClient(
            transport=transport or httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=CONNECTIONS)),
            timeout=httpx.Timeout(10.0),
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Deliver a message.

        Raises:
            Undelivered: it was not taken, or cannot be sent there.
        """
        host = self._url.host
        try:
            address = await self._address()
            request = self._client.build_request(
                "POST",
                self._url.copy_with(host=address),
                content=body,
                headers={"Host": self._url.netloc.decode(), "Content-Type": "application/json", **headers},
                # The certificate is checked against the name, not the address.
                extensions={"sni_hostname": host},
            )
            # The answer's body is never read: it may be endless.
            response = await self._client.send(request, stream=True)
            await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Undelivered(f"{host} cannot be reached: {error or type(error).__name__}") from error
        status = response.status_code
        if not 200 <= status < 300:
            raise Undelivered(f"{host} answered {status}", final=status == httpx.codes.GONE)

    async def close(self) -> None:
        await self._client.aclose()

    async def _address(self) -> str:
        host, port = self._url.host, self._url.port or (443 if self._url.scheme == "https" else 80)
        found = await self._resolve(host, port)
        allowed = [address for address in found if reachable(address, self._networks)]
        if not allowed:
            where = ", ".join(sorted(set(found))) or "no address"
            raise Undelivered(
                f"{host} is at {where}, which is not public; allowed: a public address, or one in "
                "webhook_networks"
            )
        return allowed[0]
