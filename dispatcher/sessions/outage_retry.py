"""Background work that goes on once the store answers again: what was found out must be written down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.store.database import is_outage
from dispatcher.store.store import Store
from dispatcher.tasks import Background, end_tasks

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0


class DurableBackground(Background):
    """Background tasks, and retries through an outage of the store.

    Whoever waits, only one asks the store whether it is back.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(clock)
        self._store = store
        self._asking: asyncio.Task[None] | None = None

    async def persist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and again as long as the store does not answer: to repeat it must be safe."""
        while True:
            try:
                return await work()
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise
            await self.until_back()

    def persist_later(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do it in the background, as `persist` does."""
        return self.spawn(self.persist(work))

    async def until_back(self) -> None:
        """Return once the store has answered."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    async def stop_asking(self) -> None:
        """Ask no more. Nobody may be waiting."""
        if self._asking is not None:
            await end_tasks(self._asking)

    async def _ask(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await self._clock.sleep(pause)
            try:
                await self._store.ping()
                return
            except SQLAlchemyError as error:
                log.debug("the store is still away: %s", error)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
