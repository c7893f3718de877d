"""One reaper among the replicas, and who of them lives.

Every replica counts up a row of its own, and the reaper's as well while it holds that. Nobody compares
clocks: a row is dead once it has stood still for DEAD_SECONDS on the clock of who watches it, and a holder
trusts in its lease for HELD_SECONDS after the beginning of its last beat. The difference is what the rates of
two clocks may differ by, and what an act that has just begun may take. A step of one clock alone kills
nobody: several readings in a row must have found the row unchanged. One that steps back (`SystemClock` says
when it does) leaves moments in the future, since which nothing has passed: they are not counted from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.store.leases import Beat
from dispatcher.store.store import Store

log = logging.getLogger(__name__)

REAPER = "reaper"
"""The name of the reaper's row; a replica's own row has the replica's name."""

BEAT_SECONDS = 3.0
HELD_SECONDS = 10.0
DEAD_SECONDS = 15.0
DEAD_READINGS = 3


@dataclass(frozen=True, slots=True)
class _Observed:
    beat: Beat
    since: float
    readings: int = 1


class Leadership:
    """This replica's hold on the reaper's work.

    Args:
        replica: This process, among the replicas of its deployment.
        alone: Whether no other replica can be: then everything is this one's at once.
    """

    def __init__(self, *, store: Store, clock: Clock, replica: str, alone: bool) -> None:
        self.replica = replica
        self._store = store
        self._clock = clock
        self._alone = alone
        self._observed: dict[str, _Observed] = {}
        self._beat_at = float("-inf")
        self._mine = False
        self._known = False
        self._beating = asyncio.Lock()

    @property
    def held(self) -> bool:
        """True if this replica is certainly the only reaper."""
        return self._mine and self._clock.monotonic() - self._beat_at < HELD_SECONDS

    def is_dead(self, replica: str | None) -> bool:
        """Return True if that replica has gone, or stands still. False as long as nothing is known."""
        if replica == self.replica or not self._known:
            return False
        return replica is None or replica not in self._observed or self._stands_still(replica)

    async def is_gone(self, replica: str | None) -> bool:
        """Return True if it is certainly gone: one that was never seen may have come since the last beat.

        Every replica beats before it does anything else, so a beat that begins now sees it.
        """
        if not self.is_dead(replica):
            return False
        if replica is not None and replica not in self._observed:
            async with self._beating:
                await self._beat()
        return self.is_dead(replica)

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self._clock.sleep(BEAT_SECONDS)
            try:
                await self.keep()
            except SQLAlchemyError as error:
                log.debug("the lease could not be renewed: %s", error)

    async def keep(self) -> bool:
        """Renew the lease, or take it if it is free, when that is due; whether it is held.

        Raises:
            SQLAlchemyError: the store does not answer.
        """
        async with self._beating:
            if self._clock.monotonic() - self._beat_at >= BEAT_SECONDS:
                await self._beat()
        return self.held

    async def release(self) -> None:
        """Let others go on at once."""
        async with self._beating:
            self._mine = False
            try:
                await self._store.release_leases(self.replica)
            except SQLAlchemyError as error:
                log.warning("the lease could not be released, and runs out by itself: %s", error)

    async def forget_dead(self) -> None:
        """Delete the rows of replicas that are dead; one that lives after all writes its own again."""
        dead = {name: self._observed[name].beat for name in self._observed if self._stands_still(name)}
        dead.pop(REAPER, None)
        if dead:
            await self._store.forget_leases(dead)

    async def _beat(self) -> None:
        began_at = self._clock.monotonic()
        still = {name: seen.beat for name, seen in self._observed.items() if self._stands_still(name)}
        try:
            rows = await self._store.beat(self.replica, (self.replica, REAPER), still, self._alone)
        except SQLAlchemyError:
            # While the store was away nobody could beat: what was seen before tells nothing now.
            self._observed.clear()
            self._known = False
            raise
        self._observe(rows)
        mine = REAPER in rows and rows[REAPER].holder == self.replica
        if mine != self._mine:
            log.info("this replica (%s) is %s the reaper", self.replica, "now" if mine else "no longer")
        self._mine, self._beat_at, self._known = mine, began_at, True

    def _observe(self, rows: Mapping[str, Beat]) -> None:
        now = self._clock.monotonic()
        before, self._observed = self._observed, {}
        for name, row in rows.items():
            seen = before.get(name)
            if seen is not None and seen.beat == row:
                self._observed[name] = _Observed(row, seen.since, seen.readings + 1)
            else:
                self._observed[name] = _Observed(row, now)

    def _stands_still(self, name: str) -> bool:
        seen = self._observed[name]
        if seen.beat.holder == self.replica or seen.readings <= DEAD_READINGS:
            return False
        return self._clock.monotonic() >= seen.since + DEAD_SECONDS
