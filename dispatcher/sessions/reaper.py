"""Looks after every machine that is not gone: deadlines, silence, and what a crash left half done."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import MachineState, MachineStatus, ProviderError
from dispatcher.sessions import lifecycle
from dispatcher.sessions.census import Census
from dispatcher.sessions.launcher import Launcher
from dispatcher.sessions.lease import Lease
from dispatcher.sessions.lifecycle import Machine, Session, SessionState
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.releases import Releases
from dispatcher.sessions.retention import Retention
from dispatcher.sessions.timeline import REAPER
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from dispatcher.tasks import rest
from dispatcher.telemetry.context import about, about_session

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""How often the reaper looks. Machines that have a channel, or are being released, cost no question to the
provider."""

MISSED_HEARTBEATS = 3
"""After so many missed heartbeats the provider is asked, channel or not."""

RELEASE_SECONDS = 15.0
"""How long after its session's end a machine may take to go, before the reaper ends it again."""

MOST_AT_ONCE = 500
"""Silent machines that one round looks at; the next round goes on."""

SEARCH_SHARE = 0.05
LONGEST_TICK_SECONDS = 5.0
"""The part of the time that may go into finding what to look at: with very many machines rounds are fewer."""

ASKING_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""How long a silent machine is left alone after each look at it; a listing that does not have it ends the
pause. A thousand machines that cannot reach the dispatcher cost 33 calls a second at most, and soon that."""


class Reaper:
    """Of all replicas' reapers, the one that has the lease looks; the others watch that it lives.

    Args:
        on_round: Is told of every round that this replica made as the reaper: whether it could be finished,
            and how many seconds it took.
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
        lease: Lease,
        launcher: Launcher,
        census: Census,
        retention: Retention,
        clock: Clock,
        on_round: Callable[[bool, float], None],
    ) -> None:
        self._settings = settings
        self._releases = releases
        self._queue = queue
        self._store = store
        self._fleet = fleet
        self._channels = channels
        self._lease = lease
        self._launcher = launcher
        self._census = census
        self._retention = retention
        self._clock = clock
        self._on_round = on_round
        self._nudged = asyncio.Event()
        self._asked: dict[str, tuple[int, float]] = {}
        self._searched = 0.0
        self._looking = asyncio.Lock()
        self._stopping = False

    def nudge(self) -> None:
        """Something happened that cannot wait for the next tick."""
        self._nudged.set()

    def lost(self, machine_id: str) -> None:
        """A machine's channel broke: ask about it now, whenever it was asked about before it was there."""
        self._asked.pop(machine_id, None)
        self.nudge()

    def stop(self) -> None:
        """End `run` after the round that it is in."""
        self._stopping = True
        self.nudge()

    async def run(self) -> None:
        """Look, again and again, until stopped."""
        while not self._stopping:
            began_at, finished, ours = self._clock.now(), False, True
            try:
                ours = await self.tick()
                finished = True
            except SQLAlchemyError as error:
                log.debug("the reaper could not finish its round: %s", error)
            except Exception:
                log.exception("the reaper could not finish its round")
            if ours:
                self._on_round(finished, self._clock.now() - began_at)
            await self._pause()

    async def tick(self) -> bool:
        """One look at every machine that is not known to be gone. False if this replica is not the reaper.

        One at a time: two looks would both take over what they find left alone.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        if not await self._lease.keep():
            self._asked.clear()
            return False
        # First: a round takes as long as providers take to answer, and who waits for a line needs none.
        self._queue.nudge()
        began_at = self._clock.now()
        started = await self._store.started_machines()
        silent = [machine_id for machine_id in started if self._is_silent(machine_id)]
        mute = list(itertools.islice(filter(self._is_asked_about, silent), MOST_AT_ONCE))
        due = await self._store.due_machines(self._clock.now(), mute)
        self._searched = self._clock.now() - began_at
        for machine, session in due:
            if not self._lease.held:
                return False
            with about(machine_id=machine.id) if session is None else about_session(session):
                try:
                    await self._look_at(machine, session)
                except ProviderError:
                    # Nothing is known of the machine: its row stays as it is until the provider answers.
                    log.warning("machine %s: the provider does not say", machine.id, exc_info=True)
                except SQLAlchemyError:
                    raise
                except Exception:
                    log.exception("machine %s: could not be looked after", machine.id)
        still = {*silent, *(machine.id for machine, _ in due)}
        self._asked = {machine_id: asked for machine_id, asked in self._asked.items() if machine_id in still}
        await self._retention.clean()
        return True

    async def _pause(self) -> None:
        seconds = min(max(TICK_SECONDS, self._searched / SEARCH_SHARE), LONGEST_TICK_SECONDS)
        try:
            await rest(self._clock, seconds, self._nudged)
        finally:
            self._nudged.clear()

    async def _look_at(self, machine: Machine, session: Session | None) -> None:
        if session is None or session.over:
            await self._see_off(machine, session)
            return
        now = self._clock.now()
        if lifecycle.left_alone(machine, session, now) and await self._lease.is_gone(machine.launcher):
            await self._launcher.take_over(session, machine)
            return
        if (
            session.state is not SessionState.queued
            and self._is_silent(machine.id)
            and self._may_ask(machine.id)
        ):
            asked = self._clock.now()
            status = await self._fleet.get(machine.placement, machine.id)
            if self._is_lost(status, machine, session, asked):
                if self._lease.held:
                    await self._releases.close_if(session, lambda _: lifecycle.end_by_loss(status), REAPER)
                return
        if self._lease.held and lifecycle.overdue(session, self._clock.now()) is not None:
            # The row as it is by now decides: what it waited for may have come.
            await self._releases.close_if(
                session, lambda current: lifecycle.overdue(current, self._clock.now()), REAPER
            )

    async def _see_off(self, machine: Machine, session: Session | None) -> None:
        """The session is over: its machine goes by itself, or is made to."""
        if self._releases.under_way(machine.id):
            return
        if await self._releases.note_if_gone(machine.id):
            return
        over_at = session.ended_at if session is not None else machine.created_at
        if self._lease.held and (over_at is None or self._clock.now() > over_at + RELEASE_SECONDS):
            self._releases.let_go(machine.id, "The session is over.")

    def _is_silent(self, machine_id: str) -> bool:
        last_heard = self._channels.last_heard(machine_id)
        allowed = MISSED_HEARTBEATS * self._settings.heartbeat_seconds
        if last_heard is None or self._clock.now() > last_heard + allowed:
            return True
        self._asked.pop(machine_id, None)
        return False

    def _is_asked_about(self, machine_id: str) -> bool:
        """Whether it is time to ask the provider about a silent machine."""
        _, next_at = self._asked.get(machine_id, (0, float("-inf")))
        return self._clock.now() >= next_at or self._census.suspects(machine_id)

    def _may_ask(self, machine_id: str) -> bool:
        """The same; and if it is, that is noted."""
        if not self._is_asked_about(machine_id):
            return False
        self._census.asked(machine_id)
        times, _ = self._asked.get(machine_id, (0, 0.0))
        pause = ASKING_PAUSES[min(times, len(ASKING_PAUSES) - 1)]
        self._asked[machine_id] = (times + 1, self._clock.now() + pause)
        return True

    def _is_lost(
        self, status: MachineStatus | None, machine: Machine, session: Session, asked: float
    ) -> bool:
        if status is not None:
            return status.state is MachineState.gone
        # A machine that never started has the start's own deadline, which says more.
        settling = self._fleet.settling(machine.placement)
        return session.started_at is not None and lifecycle.absence_counts(machine, session, settling, asked)
