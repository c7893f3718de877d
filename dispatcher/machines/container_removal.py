"""When containers that have ended are removed: once somebody knows how they ended, or nobody will ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from dispatcher.machines.provider import ProviderError
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

UNASKED_LISTINGS = 20
"""In so many listings a container that has ended is seen before it is removed with nobody having asked how it
ended. At two listings a minute these are ten minutes; the reaper asks for a session's machine within one."""


MOST_TOLD = 10_000
"""Machines that are kept in mind until a listing has them: a replica that does not list sees none."""


class Removal:
    """Removes what has ended, one at a time and behind the scenes. An engine may take seconds for each, or
    not answer, and no listing waits for it.

    Args:
        remove: Removes a machine's container, or raises `ProviderError` within a time.
    """

    def __init__(self, remove: Callable[[str], Awaitable[None]]) -> None:
        self._remove = remove
        self._told: dict[str, None] = {}
        self._listings: dict[str, int] = {}
        """Machine that is gone → how many listings had it."""
        self._removing: asyncio.Task[None] | None = None

    def told(self, machine_id: str) -> None:
        """Somebody knows how the machine ended."""
        self._told[machine_id] = None
        if len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]

    def listed(self, gone: Iterable[str]) -> None:
        """A listing has these, which have ended. Returns at once.

        What nobody asks for is removed as well after a while: machines without an owner, and those whose end
        an earlier dispatcher was told.
        """
        self._listings = {machine_id: self._listings.get(machine_id, 0) + 1 for machine_id in gone}
        due = [
            machine_id
            for machine_id, listings in self._listings.items()
            if machine_id in self._told or listings >= UNASKED_LISTINGS
        ]
        if due and (self._removing is None or self._removing.done()):
            self._removing = asyncio.create_task(self._remove_all(due))

    async def close(self) -> None:
        if self._removing is not None:
            await end_tasks(self._removing)

    async def _remove_all(self, machine_ids: Iterable[str]) -> None:
        for machine_id in machine_ids:
            self._told.pop(machine_id, None)
            try:
                await self._remove(machine_id)
            except ProviderError as error:
                log.warning("machine %s: its container cannot be removed: %s", machine_id, error)
                # It is tried again after as many listings more.
                self._listings[machine_id] = 0
