"""Looks after every machine that is not gone: deadlines, silence, and what a crash left half done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dispatcher.clock import Clock
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import MachineState, MachineStatus, ProviderError
from dispatcher.sessions import lifecycle
from dispatcher.sessions.lifecycle import Machine, Session, SessionState
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.releases import Releases
from dispatcher.sessions.timeline import REAPER
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks
from dispatcher.telemetry.context import about, about_session

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often the reaper looks. Machines that have a channel, or are being released, cost no question to the
provider."""

MISSED_HEARTBEATS = 3
"""After so many missed heartbeats the provider is asked, channel or not."""

RELEASE_SECONDS = 15.0
"""How long after its session's end a machine may take to go, before the reaper ends it again."""


CLEANING_SECONDS = 60.0
CLEANING_BATCH = 500
"""How often expired keys are deleted, and how many at once: a long delete would hold up every start."""


class Reaper:
    """One per deployment.

    Args:
        on_round: Is told of every round: whether it could be finished, and how many seconds it took.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        releases: Releases,
        queue: Queue,
        store: Store,
        fleet: Fleet,
        channels: Channels,
        clock: Clock,
        on_round: Callable[[bool, float], None],
    ) -> None:
        self._settings = settings
        self._releases = releases
        self._queue = queue
        self._store = store
        self._fleet = fleet
        self._channels = channels
        self._clock = clock
        self._on_round = on_round
        self._nudged = asyncio.Event()
        self._cleaned_at = clock.now()
        self._stopping = False

    def nudge(self) -> None:
        """Something happened that cannot wait for the next tick."""
        self._nudged.set()

    def stop(self) -> None:
        """End `run` after the round that it is in."""
        self._stopping = True
        self.nudge()

    async def run(self) -> None:
        """Look, again and again, until stopped."""
        while not self._stopping:
            began_at, finished = self._clock.now(), False
            try:
                await self.tick()
                finished = True
            except Exception:
                log.exception("the reaper could not finish its round")
            self._on_round(finished, self._clock.now() - began_at)
            await self._pause()

    async def tick(self) -> None:
        """One look at every machine that is not known to be gone."""
        for machine, session in await self._store.live_machines():
            with about(machine_id=machine.id) if session is None else about_session(session):
                try:
                    await self._look_at(machine, session)
                except ProviderError:
                    # Nothing is known of the machine: its row stays as it is until the provider answers.
                    log.warning("machine %s: the provider does not say", machine.id, exc_info=True)
                except Exception:
                    log.exception("machine %s: could not be looked after", machine.id)
        self._queue.nudge()
        if self._clock.now() >= self._cleaned_at + CLEANING_SECONDS:
            await self._clean()

    async def _clean(self) -> None:
        """Delete a batch of what has expired. A full one leaves the rest to the next round."""
        now = self._clock.now()
        if await self._store.delete_expired_claims(now, CLEANING_BATCH) < CLEANING_BATCH:
            self._cleaned_at = now

    async def _pause(self) -> None:
        sleep = asyncio.create_task(self._clock.sleep(TICK_SECONDS))
        nudge = asyncio.create_task(self._nudged.wait())
        try:
            await asyncio.wait((sleep, nudge), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(sleep, nudge)
            self._nudged.clear()

    async def _look_at(self, machine: Machine, session: Session | None) -> None:
        if session is None or session.over:
            await self._see_off(machine, session)
            return
        if session.state is not SessionState.queued and self._is_silent(machine):
            status = await self._fleet.get(machine.placement, machine.id)
            if self._is_lost(status, machine, session):
                await self._lost(machine, status)
                return
        if (end := lifecycle.overdue(session, self._clock.now())) is not None:
            await self._releases.close(session, end, REAPER)

    async def _see_off(self, machine: Machine, session: Session | None) -> None:
        """The session is over: its machine goes by itself, or is made to."""
        if self._releases.under_way(machine.id):
            return
        if await self._releases.note_if_gone(machine.id):
            return
        over_at = session.ended_at if session is not None else machine.created_at
        if over_at is None or self._clock.now() > over_at + RELEASE_SECONDS:
            self._releases.let_go(machine.id, "The session is over.")

    async def _lost(self, machine: Machine, status: MachineStatus | None) -> None:
        # Read again: the bot's last word may have come in while the provider was asked.
        session = await self._store.session_of_machine(machine.id)
        if session is not None and not session.over:
            await self._releases.close(session, lifecycle.end_by_loss(status), REAPER)

    def _is_silent(self, machine: Machine) -> bool:
        last_heard = self._channels.last_heard(machine.id)
        allowed = MISSED_HEARTBEATS * self._settings.heartbeat_seconds
        return last_heard is None or self._clock.now() > last_heard + allowed

    def _is_lost(self, status: MachineStatus | None, machine: Machine, session: Session) -> bool:
        if status is not None:
            return status.state is MachineState.gone
        # A machine that never started has the start's own deadline, which says more.
        settling = self._fleet.settling(machine.placement)
        return session.started_at is not None and lifecycle.absence_counts(
            machine, session, settling, self._clock.now()
        )
