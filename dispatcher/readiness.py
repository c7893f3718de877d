"""Readiness: checks what a start needs: a write, the bus, disk space, file descriptors, a machines API."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.agent_images import AgentImages
from dispatcher.bus import Bus
from dispatcher.clock import Clock
from dispatcher.disk import LEAST_FREE_BYTES, Disk
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import Unreachable
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks, within

log = logging.getLogger(__name__)

TRIAL_SECONDS = 8.0
"""Limit on a check. Load balancers wait 5 to 10 s; a hanging database fails after 10 s."""

DESCRIPTORS = 8
"""File descriptors of a start: its request's connection, its machine's channel, a pipe or two for a
process."""


BUS_GRACE_SECONDS = 10.0
"""Grace for a bus that is down: in a database failover all replicas lose it together, and poll meanwhile.

Two attempts to reconnect fit in (`LONGEST_BACKOFF_SECONDS`).
"""


@dataclass(frozen=True, slots=True)
class Unready:
    """The reason for not being ready: a stable code, and a sentence for people."""

    code: str
    message: str


class Readiness:
    """Checks that this dispatcher can take starts."""

    def __init__(
        self, *, store: Store, bus: Bus, fleet: Fleet, images: AgentImages, clock: Clock, disk: Disk
    ) -> None:
        self._store = store
        self._bus = bus
        self._fleet = fleet
        self.images = images
        self._asking: asyncio.Task[None] | None = None
        self._clock = clock
        self._disk = disk
        self._known: str | None = None

    async def missing(self) -> Unready | None:
        """Return why starts cannot be taken; None if they can. Each change is logged once."""
        found = await self._try_all()
        code = found.code if found is not None else None
        if code != self._known:
            if found is not None:
                log.error("not ready for starts: %s", found.message)
            else:
                log.warning("ready for starts again")
            self._known = code
        return found

    async def _try_all(self) -> Unready | None:
        try:
            trial = asyncio.to_thread(self._try_system)
            late = TimeoutError(f"no answer within {TRIAL_SECONDS:g} s")
            found = await within(self._clock, TRIAL_SECONDS, trial, late)
        except OSError as error:  # TimeoutError is one
            return Unready("disk_unusable", f"The dispatcher's data directory cannot be used: {error}.")
        if found is not None:
            return found
        if self.images.lacks_all:
            return Unready("no_images", "No agent's image is known yet.")
        late = TimeoutError()
        try:
            await within(self._clock, TRIAL_SECONDS, self._store.ping(), late)
        except (SQLAlchemyError, TimeoutError):
            return Unready("store_down", "The store does not answer.")
        down_since = self._bus.down_since
        if down_since is not None and self._clock.monotonic() - down_since > BUS_GRACE_SECONDS:
            return Unready("bus_down", "The dispatcher is cut off from the other replicas: its bus is down.")
        try:
            await within(self._clock, TRIAL_SECONDS, asyncio.shield(self._ask_fleet()), late)
        except TimeoutError:
            return Unready("no_placement", f"No placement answered within {TRIAL_SECONDS:g} s.")
        except Unreachable as error:
            return Unready("no_placement", f"No placement can be asked for a machine: {error}.")
        return None

    def _ask_fleet(self) -> asyncio.Task[None]:
        """Ask the fleet for a usable placement: one question at a time, shared by all callers."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._fleet.check())
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return self._asking

    async def close(self) -> None:
        """Cancel the pending question."""
        if self._asking is not None:
            await end_tasks(self._asking)

    def _try_system(self) -> Unready | None:
        try:
            _open_some()
        except OSError as error:
            return Unready("no_descriptors", f"The dispatcher cannot open files: {error.strerror}.")
        if (path := self._store.lost_file()) is not None:
            words = f"The store's file {path} was deleted or replaced. Restore it and restart."
            return Unready("store_lost", words)
        if (shortage := self._disk.shortage()) is not None:
            directory, free = shortage
            least = LEAST_FREE_BYTES // (1024 * 1024)
            words = f"{directory} has {free // (1024 * 1024)} MB left; at least {least} MB are needed."
            return Unready("disk_full", words)
        return None


def _open_some() -> None:
    """Open some descriptors and close them again.

    Raises:
        OSError: None are left for a start.
    """
    opened: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for descriptor in opened:
            os.close(descriptor)
