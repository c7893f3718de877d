"""Counts of the sessions that were asked for, kept in the store for eight weeks."""

from __future__ import annotations

import logging
from collections import Counter

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain.model import Session
from dispatcher.reserve.calendar import SLOT
from dispatcher.store.store import Store

log = logging.getLogger(__name__)

MOST_SLOTS = 10_000
"""Limit on what is kept while the store is away: a day and a half of twenty agents."""


class ArrivalCounts:
    """Counts this replica's new sessions per agent and slot, until they are written."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._calls: Counter[tuple[str, int]] = Counter()

    def session_changed(self, before: Session | None, after: Session) -> None:
        """Count a session that is new."""
        if before is None and (len(self._calls) < MOST_SLOTS or self._key(after) in self._calls):
            self._calls[self._key(after)] += 1

    async def write(self) -> None:
        """Add the counts to the store's. What it may have taken although its answer was lost counts once."""
        calls, self._calls = self._calls, Counter()
        if not calls:
            return
        try:
            await self._store.reserves.count(calls)
        except SQLAlchemyError as error:
            # To write them again might count them twice: a forecast misses a few calls less.
            log.debug("arrivals: %d calls are not counted: %s", calls.total(), type(error).__name__)

    @staticmethod
    def _key(session: Session) -> tuple[str, int]:
        return session.agent, int(session.created_at // SLOT * SLOT)
