"""The capacity of a host: checked by the provider before it creates a container, and again by the proxy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from dispatcher.domain.model import MachineState
from dispatcher.machines.container.request import MACHINE_LABEL, MEMORY_LABEL
from dispatcher.machines.provider import NoCapacity

log = logging.getLogger(__name__)

LIMITS = {"MemoryLimit": "memory", "CpuCfsQuota": "CPU", "PidsLimit": "processes"}
"""Field of `GET /info` → what the engine can limit if it is true. Engines without root cannot where the host
has cgroups of version 1, or gives their account none."""

HOST_SHARE = 0.9
"""Share of the host's memory for all machines together: an engine overcommits, and the kernel then kills a
bot during its call."""


class Capacity:
    """The memory of one host, and its limit on containers.

    Args:
        info: Returns the engine's answer to `GET /info`.
        containers: Returns all machines of the deployment, as `GET /containers/json` lists them.
        most: Limit on containers, including those that have ended; None for none.
    """

    def __init__(
        self,
        info: Callable[[], Awaitable[Mapping[str, Any]]],
        containers: Callable[[], Awaitable[Iterable[Mapping[str, Any]]]],
        most: int | None = None,
    ) -> None:
        self._info = info
        self._containers = containers
        self._most = most
        self._whole_mb = 0.0
        self._taken_mb: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()

    async def take(self, machine_id: str, memory_mb: int) -> None:
        """Reserve memory for a container that is about to be created, until `give_back`.

        Raises:
            NoCapacity: there is not enough.
        """
        async with self._one_at_a_time:
            whole = await self._for_machines()
            # A container that is being created may be in the engine's list already, or not yet.
            taken = self._taken_mb | {machine_id: memory_mb}
            known = set(taken)
            for container in await self._containers():
                labels = container["Labels"]
                known.add(labels[MACHINE_LABEL])
                if state_of(container["State"]) is not MachineState.gone:
                    taken[labels[MACHINE_LABEL]] = int(labels.get(MEMORY_LABEL, 0))
            if self._most is not None and len(known) > self._most:
                raise NoCapacity(f"too many containers: {len(known)}, and {self._most} is the most")
            if (wanted := sum(taken.values())) > whole:
                raise NoCapacity(
                    f"not enough memory: {wanted} MiB would be needed for all machines of this host, and "
                    f"{int(whole)} MiB are for machines"
                )
            self._taken_mb[machine_id] = memory_mb

    def give_back(self, machine_id: str) -> None:
        """Release the reservation: the container is in the engine's list, or will never be."""
        self._taken_mb.pop(machine_id, None)

    async def _for_machines(self) -> float:
        """Return the host's memory for machines, in MiB. The engine is asked once."""
        if not self._whole_mb:
            info = await self._info()
            if lacking := [word for key, word in LIMITS.items() if info.get(key) is False]:
                log.warning(
                    "the engine limits no container's %s: a bot can take all that this host has. "
                    "An engine without root needs cgroups of version 2, with these controllers delegated to "
                    "its account",
                    ", ".join(lacking),
                )
            self._whole_mb = info["MemTotal"] * HOST_SHARE / 2**20
        return self._whole_mb


def state_of(status: str) -> MachineState:
    """Return the engine's state of a container; one that is paused or restarting still is a machine."""
    match status:
        case "created":
            return MachineState.requested
        # Podman's list says `stopped` where its inspection says `exited`.
        case "exited" | "stopped" | "dead" | "removing":
            return MachineState.gone
        case _:
            return MachineState.started
