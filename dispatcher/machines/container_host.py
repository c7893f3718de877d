"""The address at which containers find the host that the dispatcher runs on."""

from __future__ import annotations

import ipaddress
import logging
import socket

from dispatcher.machines.container_engine import EngineClient
from dispatcher.machines.provider import ProviderError, Unreachable

log = logging.getLogger(__name__)

ASK_THE_ENGINE = "host-gateway"
"""The engine's own word for it. An engine that kept its containers through a restart (`live-restore`) has
forgotten what it means, and writes `<nil>` into the hosts file of each new one."""


class HostAddress:
    """The gateway of the machines' network, where that is an address of this computer.

    Elsewhere, as with an engine in a virtual machine, only the engine knows.
    """

    def __init__(self, engine: EngineClient, network: str) -> None:
        self._engine = engine
        self._network = network
        self._known = ""
        self._is_refused = False

    async def find(self) -> str:
        """Return an address, or the engine's word for it."""
        if not (self._is_refused or _is_of_this_computer(self._known)):
            self._known = await self._gateway()
        return self._known if _is_of_this_computer(self._known) else ASK_THE_ENGINE

    async def _gateway(self) -> str:
        try:
            with self._engine.translated():
                docker = await self._engine.docker()
                found = await docker._query_json(f"networks/{self._network}")
        except Unreachable:  # the next machine's create asks again
            return ""
        except ProviderError as error:  # the engine's proxy shows none, and there no machine needs it
            log.debug("network %s cannot be looked at: %s", self._network, error)
            self._is_refused = True
            return ""
        # The engine's proxy, an old engine or another program may leave any of it out.
        pools = (found.get("IPAM") or {}).get("Config") or ()
        return next((one["Gateway"] for one in pools if one.get("Gateway")), "")


def _is_of_this_computer(address: str) -> bool:
    """Return True if something of this computer can listen there."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True
