"""Tell the firewall the bots' network, as the engine has it, and start no bot that it does not keep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import aiohttp

from dispatcher.engine_proxy.reading import Refused
from dispatcher.firewall import messages
from dispatcher.machines.container.request import UNFILTERED

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
"""Between two looks at the network: the dispatcher has another address after it was started anew, and bots
reach it there once the firewall knows."""

MOST_AGAIN_SECONDS = 16.0
"""Between two looks when none succeeds. Starts and readiness look for themselves, and wait for none."""

ANSWER_SECONDS = 5.0
"""Limit on an answer of the firewall's."""


class NoFirewall:
    """A stack without a firewall."""

    async def hold(self) -> None: ...

    async def check(self) -> None: ...

    async def watch(self) -> None: ...


class Firewall:
    """The stack's firewall.

    Args:
        socket: Where it takes requests.
        look: Gives the engine's view of the bots' network.
        is_bot: Tells a bot's container from a service by its name.
        sleep: Waits between two looks.
    """

    def __init__(
        self,
        socket: Path,
        look: Callable[[], Awaitable[Any]],
        is_bot: Callable[[str], bool],
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._socket = socket
        self._look = look
        self._is_bot = is_bot
        self._sleep = sleep
        self._error = ""
        self._holding = asyncio.Lock()
        """Held from a look to its rules: an earlier look does not follow a later one."""

    async def hold(self) -> None:
        """Return once the network, as it is now, is closed. Raises Refused if it is not."""
        async with self._holding:
            try:
                request = wanted(await self._look(), self._is_bot)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                why = f"the engine describes the bots' network in an unknown way: {error!r}"
                raise Refused(f"{UNFILTERED}: {why}", 503) from error
            await self._ask(request)

    async def check(self) -> None:
        """Return if the rules of the last look are there. Raises Refused if not."""
        await self._ask(messages.plain("check"))

    async def watch(self) -> None:
        """Hold, again and again; log what changes."""
        pause = AGAIN_SECONDS
        while True:
            error = await self._failure()
            if error != self._error:
                self._error = error
                log.warning("%s", error or "bots' network is filtered")
            pause = min(2 * pause, MOST_AGAIN_SECONDS) if error else AGAIN_SECONDS
            await self._sleep(pause)

    async def _failure(self) -> str:
        """Hold; return what keeps it from that, empty for nothing."""
        try:
            await self.hold()
        except Refused as refused:
            return str(refused)
        except (aiohttp.ClientError, TimeoutError) as failure:
            return f"the engine does not answer: {failure or 'it takes too long'}"
        except Exception as fault:
            # Whatever it is, the next look comes: without one, rules would stay those of a former network.
            log.exception("the bots' network was not looked at")
            return f"{UNFILTERED}: {fault!r}"
        return ""

    async def _ask(self, request: bytes) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(request)
                    error = messages.error_of(await reader.readline())
                finally:
                    writer.close()
        except (OSError, ValueError) as failure:
            error = f"the firewall does not answer: {failure or 'it takes too long'}"
        if error:
            raise Refused(f"{UNFILTERED}: {error}", 503)


def wanted(network: Mapping[str, Any], is_bot: Callable[[str], bool]) -> bytes:
    """Return the request to close a network, from the engine's inspection of it.

    Raises:
        Refused: it is none that can be closed.
    """
    if network.get("Driver") != "bridge":
        raise Refused(f"{UNFILTERED}: its driver is {network.get('Driver')!r}, and not bridge", 503)
    bridge = (network.get("Options") or {}).get(
        "com.docker.network.bridge.name"
    ) or f"br-{network['Id'][:12]}"
    pools = (network.get("IPAM") or {}).get("Config") or ()
    return messages.hold(
        bridge, [one["Subnet"] for one in pools if one.get("Subnet")], sorted(_services(network, is_bot))
    )


def _services(network: Mapping[str, Any], is_bot: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """Addresses of containers that are no bots, with their hardware addresses.

    A container without a name or a hardware address is taken for a bot.
    """
    for one in (network.get("Containers") or {}).values():
        name, hardware = one.get("Name"), one.get("MacAddress")
        if not name or not hardware or is_bot(name):
            continue
        for kind in ("IPv4Address", "IPv6Address"):
            if one.get(kind):
                yield str(ip_interface(one[kind]).ip), hardware
