"""When containers that have ended are removed: once how they ended is on record, or nobody will ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from dispatcher.machines.provider import ProviderError
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

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
        self.ended: Collection[str] = ()
        """Machines that the last listing had, and that have ended."""
        self._removing: asyncio.Task[None] | None = None

    def told(self, machine_ids: Iterable[str]) -> None:
        """Somebody knows how these ended, or nobody will ask: the next listing removes them."""
        for machine_id in machine_ids:
            self._told[machine_id] = None
            if len(self._told) > MOST_TOLD:
                del self._told[next(iter(self._told))]

    def listed(self, gone: Iterable[str]) -> None:
        """A listing has these, which have ended. Returns at once."""
        self.ended = tuple(gone)
        due = [machine_id for machine_id in self.ended if machine_id in self._told]
        if due and (self._removing is None or self._removing.done()):
            self._removing = asyncio.create_task(self._remove_all(due))

    async def close(self) -> None:
        if self._removing is not None:
            await end_tasks(self._removing)

    async def _remove_all(self, machine_ids: Iterable[str]) -> None:
        for machine_id in machine_ids:
            # Who looks after it tells of one again that could not be removed.
            self._told.pop(machine_id, None)
            try:
                await self._remove(machine_id)
            except ProviderError as error:
                log.warning("machine %s: its container cannot be removed: %s", machine_id, error)
