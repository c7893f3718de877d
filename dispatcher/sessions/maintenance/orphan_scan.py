"""Compares the rows with what the providers list: machines without an owner, rows without their machine.

A machine without an owner is ended once several listings had it, for a while, and its row, read again, still
does not stand for it. An absent one is only a suspicion: lists lag, so the reaper asks for it by name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain.model import Machine, MachineState
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.terminator import STOP_GRACE
from dispatcher.store.store import Store
from dispatcher.tasks import Background

log = logging.getLogger(__name__)

LISTING_SECONDS = 30.0
"""Between two listings of a placement. APIs page lists and limit them more than anything else: two calls a
minute for each hundred machines or so is far below every published rate."""

ORPHAN_SECONDS = 60.0
ORPHAN_LISTINGS = 2
"""For so long, and in so many listings, a machine must have been seen without an owner before it is ended."""


@dataclass(slots=True)
class _Stray:
    """A machine that was seen without an owner."""

    since: float
    listings: int = 0
    told: bool = False


class OrphanScan:
    """Looks at all placements, if this replica is the reaper.

    Args:
        on_orphan: Is told of the placement of every machine that was found without an owner, once.
    """

    def __init__(
        self,
        *,
        store: Store,
        fleet: Fleet,
        leadership: Leadership,
        repository: Repository,
        clock: Clock,
        background: Background,
        on_orphan: Callable[[str], None],
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._leadership = leadership
        self._repository = repository
        self._clock = clock
        self._background = background
        self._on_orphan = on_orphan
        self._strays: dict[tuple[str, str], _Stray] = {}
        self._absent: set[str] = set()
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            await self._clock.sleep(LISTING_SECONDS)
            try:
                await self.look()
            except SQLAlchemyError as error:
                log.debug("machines could not be compared with their rows: %s", error)
            except Exception:
                log.exception("machines could not be compared with their rows")

    async def look(self) -> None:
        """List every placement once, and act on what differs.

        One at a time: of two looks, the one that listed first might judge last.
        """
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        if not await self._leadership.keep():
            self._strays.clear()
            return
        self._absent.clear()
        for placement in self._fleet.placements:
            try:
                await self._look_at(placement)
            except ProviderError as error:
                log.warning("the machines of %s could not be listed: %s", placement, error)

    def suspects(self, machine_id: str) -> bool:
        """Return True if the last listing lacked that machine, and nobody has asked for it by name since."""
        return machine_id in self._absent

    def asked(self, machine_id: str) -> None:
        """Somebody asks for that machine by name."""
        self._absent.discard(machine_id)

    async def _look_at(self, placement: str) -> None:
        asked, began_at = self._clock.now(), self._clock.monotonic()
        listed = [
            status.id async for status in self._fleet.list(placement) if status.state is not MachineState.gone
        ]
        # After the listing: the row comes before its machine, so a machine without one never had one.
        owned = await self._owned(placement, set(listed), asked - self._fleet.settling(placement))
        ended = self._fleet.ended(placement)
        self._fleet.recorded(placement, [machine_id for machine_id in ended if machine_id not in owned])
        strays = [machine_id for machine_id in listed if machine_id not in owned]
        for machine_id in strays:
            stray = self._strays.setdefault((placement, machine_id), _Stray(began_at))
            stray.listings += 1
            if stray.listings >= ORPHAN_LISTINGS and began_at >= stray.since + ORPHAN_SECONDS:
                self._background.spawn(self._end(placement, machine_id, stray))
        found = set(strays)
        for key in [key for key in self._strays if key[0] == placement and key[1] not in found]:
            del self._strays[key]

    async def _owned(self, placement: str, listed: Collection[str], before: float) -> set[str]:
        """The machines that rows stand for at a placement.

        Those that started before then, and are not listed, are noted as absent.
        """
        owned: set[str] = set()
        behind: str | None = ""
        while behind is not None:
            page = await self._store.live_machines(behind, placement=placement, started_before=before)
            owned.update(page.ids)
            self._absent.update(machine_id for machine_id in page.started if machine_id not in listed)
            behind = page.last
        return owned

    async def _end(self, placement: str, machine_id: str, stray: _Stray) -> None:
        if _owns(await self._store.machine(machine_id), placement) or not self._leadership.held:
            return
        if not stray.told:
            stray.told = True
            self._on_orphan(placement)
            await self._repository.orphan_stopped(machine_id, placement)
        log.warning("machine %s at %s belongs to no session and is ended", machine_id, placement)
        try:
            await self._fleet.stop(placement, machine_id, STOP_GRACE)
        except ProviderError as error:
            log.warning("machine %s at %s could not be ended yet: %s", machine_id, placement, error)


def _owns(machine: Machine | None, placement: str) -> bool:
    """Return True if a row stands for a machine at a placement.

    That its session is over does not matter here: as long as its row is open, the reaper sees it off.
    """
    return machine is not None and machine.state is not MachineState.gone and machine.placement == placement
