"""A listing that is read ahead, so that a time limit costs something per page, not per machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from dispatcher.domain.model import MachineStatus
from dispatcher.tasks import end_tasks


class Listing:
    """A provider's list of machines, as it comes."""

    def __init__(self, statuses: AsyncIterator[MachineStatus]) -> None:
        self._come: list[MachineStatus] = []
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read(statuses))

    async def more(self) -> Sequence[MachineStatus]:
        """Return the machines since the last call, waiting for some; empty at the end.

        Raises the provider's error, after the machines that came before it.
        """
        while not self._come and not self._reading.done():
            self._news.clear()
            await self._news.wait()
        come, self._come = self._come, []
        if not come:
            self._reading.result()
        return come

    async def close(self) -> None:
        """Stop reading."""
        await end_tasks(self._reading)
        if not self._reading.cancelled():
            self._reading.exception()  # mark the error as retrieved: the reader has stopped

    async def _read(self, statuses: AsyncIterator[MachineStatus]) -> None:
        try:
            async for status in statuses:
                self._come.append(status)
                self._news.set()
        finally:
            self._news.set()
