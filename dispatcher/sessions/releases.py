"""The end of machines: asked to go, made to go, and known to be gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from bot.protocol import Stop
from dispatcher.clock import Clock
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import MachineState
from dispatcher.sessions import lifecycle
from dispatcher.sessions.ledger import Ledger
from dispatcher.sessions.lifecycle import End, Session
from dispatcher.sessions.timeline import DISPATCHER
from dispatcher.store.store import Store
from dispatcher.tasks import Background

STOP_GRACE = timedelta(seconds=5)
"""What a bot gets to say goodbye, from the stop message to the signal; and then again to the kill."""


class Releases:
    """Ends machines."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        fleet: Fleet,
        channels: Channels,
        clock: Clock,
        background: Background,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._fleet = fleet
        self._channels = channels
        self._clock = clock
        self._background = background
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def close(self, session: Session, end: End, by: str = DISPATCHER) -> None:
        """Close the session's row with this reason, if it is still open, and let its machine go."""
        await self._ledger.end(session.id, end, by)
        self.let_go(session.machine_id, end.message)

    def let_go(self, machine_id: str, why: str) -> None:
        """Release a machine in the background, unless that is under way."""
        if machine_id not in self._under_way:
            release = self._background.spawn(self.release(machine_id, why))
            self._under_way[machine_id] = release
            release.add_done_callback(lambda _: self._under_way.pop(machine_id, None))

    def abandon(self) -> None:
        """Leave what is under way to the next dispatcher's reaper.

        Bots that are about to end may wait for an acknowledgement that this one's channels no longer carry.
        """
        for release in list(self._under_way.values()):
            release.cancel()

    async def release(self, machine_id: str, why: str, placement: str | None = None) -> None:
        """End a machine: ask its bot, then the provider, and write down that it is gone.

        Args:
            placement: Where it is; by default where its row says.
        """
        if placement is None:
            machine = await self._store.machine(machine_id)
            placement = machine.placement if machine is not None else None
        if await self._channels.send(machine_id, Stop(message=why)):
            await self._until_gone(placement, machine_id, STOP_GRACE)
        await self._fleet.stop(placement, machine_id, STOP_GRACE)
        await self.note_if_gone(machine_id)

    async def note_if_gone(self, machine_id: str) -> bool:
        """Ask the provider; if the machine is certainly gone, write that down. True if it is."""
        machine = await self._store.machine(machine_id)
        if machine is None or machine.state is MachineState.gone:
            return True
        asked = self._clock.now()
        status = await self._fleet.get(machine.placement, machine_id)
        if status is None:
            session = await self._store.session_of_machine(machine_id)
            settling = self._fleet.settling(machine.placement)
            if not lifecycle.absence_counts(machine, session, settling, asked):
                return False
        elif status.state is not MachineState.gone:
            return False
        await self._ledger.machine_gone(machine_id, status)
        return True

    async def _until_gone(self, placement: str | None, machine_id: str, within: timedelta) -> None:
        deadline = self._clock.now() + within.total_seconds()
        while self._clock.now() < deadline:
            status = await self._fleet.get(placement, machine_id)
            if status is None or status.state is MachineState.gone:
                return
            await self._clock.sleep(0.1)
