"""Removes ended machines that a provider keeps, once their end is on record or nobody will ask for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from dispatcher.machines.provider import ProviderError
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

MOST_TOLD = 10_000
"""Limit on the machines remembered until a listing contains them: a replica that never lists sees none."""


class Removal:
    """Removes ended machines one at a time, in the background.

    A removal may take seconds, and no listing waits for it.

    Args:
        remove: Removes what is left of a machine, or raises `ProviderError` within a time limit.
    """

    def __init__(self, remove: Callable[[str], Awaitable[None]]) -> None:
        self._remove = remove
        self._told: dict[str, None] = {}
        self.ended: Collection[str] = ()
        """Ended machines in the last listing."""
        self._removing: asyncio.Task[None] | None = None

    def told(self, machine_ids: Iterable[str]) -> None:
        """Mark machines whose end is on record, or of no interest: the next listing removes them."""
        for machine_id in machine_ids:
            self._told[machine_id] = None
            if len(self._told) > MOST_TOLD:
                del self._told[next(iter(self._told))]

    def listed(self, gone: Iterable[str]) -> None:
        """Take the ended machines of a listing. Returns at once."""
        self.ended = tuple(gone)
        due = [machine_id for machine_id in self.ended if machine_id in self._told]
        if due and (self._removing is None or self._removing.done()):
            self._removing = asyncio.create_task(self._remove_all(due))

    async def close(self) -> None:
        if self._removing is not None:
            await end_tasks(self._removing)

    async def _remove_all(self, machine_ids: Iterable[str]) -> None:
        for machine_id in machine_ids:
            # The next listing reports a machine again that could not be removed.
            self._told.pop(machine_id, None)
            try:
                await self._remove(machine_id)
            except ProviderError as error:
                log.warning("machine %s has ended and cannot be removed: %s", machine_id, error)
