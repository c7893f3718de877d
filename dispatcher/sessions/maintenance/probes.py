"""Asks the providers about machines that say nothing, and about those whose sessions are over.

Each placement has a lane of its own, so one that answers late delays only its own machines. A few machines of
a lane are asked about at a time, those first that have waited longest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain import deadlines, ends, reserve, transitions
from dispatcher.domain.model import End, Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import PROVIDER, REAPER
from dispatcher.log_context import about, about_session
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import ProviderError
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.maintenance.orphan_scan import OrphanScan
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store
from dispatcher.tasks import Background

log = logging.getLogger(__name__)

MISSED_HEARTBEATS = 3
"""After so many missed heartbeats the provider is asked, channel or not."""

TERMINATION_SECONDS = 15.0
"""Limit on a machine's going after its session's end, before it is ended again."""

AT_ONCE = 8
"""Machines of one placement that it is asked about at the same time: with answers after 100 ms some 80 a
second, unless its rates allow less. A start that has to look for its own waits behind no more than these."""

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Pauses after answers about a machine; a listing that does not have it ends the pause. A thousand machines
that cannot reach the dispatcher cost 33 calls a second at most, and soon that."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The number of questions about a machine for the same reason, and the time of the next."""

    alone: bool
    times: int
    next_at: float
    since: float
    """The first of these times; later, if machines at other replicas could not be heard meanwhile."""


@dataclass(slots=True)
class _Lane:
    """The machines of a placement that it will be asked about."""

    placement: str | None
    urgent: dict[str, None] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    taken: int = 0

    def next(self) -> str | None:
        """Takes the first one out; of the urgent ones three for each other one."""
        self.taken += 1
        order = (self.urgent, self.others) if self.taken % 4 else (self.others, self.urgent)
        for some in order:
            for machine_id in some:
                del some[machine_id]
                return machine_id
        return None


class Probes:
    """Probes of machines. Of all replicas, only the reaper makes them."""

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        fleet: Fleet,
        channels: Channels,
        terminator: Terminator,
        leadership: Leadership,
        orphan_scan: OrphanScan,
        clock: Clock,
        background: Background,
        unresponsive_seconds: float,
    ) -> None:
        self._store = store
        self._repository = repository
        self._fleet = fleet
        self._channels = channels
        self._terminator = terminator
        self._leadership = leadership
        self._orphan_scan = orphan_scan
        self._clock = clock
        self._background = background
        self._unresponsive_seconds = unresponsive_seconds
        self._silence_seconds = MISSED_HEARTBEATS * channels.heartbeat_seconds
        self._lanes: dict[str | None, _Lane] = {}
        self._waiting: dict[str, _Lane] = {}
        """Machine that is to be asked about, or being asked about → its lane, one at a time."""
        self._asking: dict[str, bool] = {}
        """Machine that is being asked about → whether it must be once more."""
        self._asked: dict[str, _Asked] = {}
        self._closed = False

    def is_silent(self, machine_id: str) -> bool:
        """Return True if nothing was heard from the machine for a while."""
        return bool(self.silent([machine_id]))

    def silent(self, machine_ids: Iterable[str]) -> list[str]:
        """Return those of these machines of which nothing was heard for a while.

        Of the others is forgotten how often they were asked about.
        """
        since, last_heard = self._clock.monotonic() - self._silence_seconds, self._channels.last_heard
        found = []
        for machine_id in machine_ids:
            if (heard := last_heard(machine_id)) is None or heard < since:
                found.append(machine_id)
            elif machine_id in self._asked:
                del self._asked[machine_id]
        return found

    def is_due(self, machine_id: str, *, alone: bool) -> bool:
        """Return True if it is time to ask about a machine.

        Args:
            alone: Its session is over, or it has none.
        """
        if machine_id in self._waiting:
            return False
        asked = self._asked.get(machine_id)
        if asked is None or asked.alone != alone:
            return True
        if self._clock.monotonic() >= asked.next_at:
            return True
        return self._orphan_scan.suspects(machine_id)

    def ask(self, machine_id: str, placement: str | None, *, urgent: bool = False) -> None:
        """Ask about a machine in its turn, unless it waits for that already.

        Args:
            urgent: Before most others, and once more if it is being asked about just now: what happened may
                be later than the answer.
        """
        urgent = urgent or self._orphan_scan.suspects(machine_id)
        if self._closed or (machine_id in self._waiting and not urgent):
            return
        if machine_id in self._asking:
            self._asking[machine_id] = True
            return
        lane = self._lanes.setdefault(placement, _Lane(placement))
        if (before := self._waiting.get(machine_id)) is not None:
            before.others.pop(machine_id, None)
            if before is not lane:
                before.urgent.pop(machine_id, None)
        self._waiting[machine_id] = lane
        if urgent:
            lane.urgent[machine_id] = None
        else:
            lane.others[machine_id] = None
        if len(lane.tasks) < AT_ONCE:
            lane.tasks.append(self._background.spawn(self._work(lane)))

    def lost(self, machine_id: str) -> None:
        """The machine was there until now: however lately it was asked about, it may be asked about again."""
        self._asked.pop(machine_id, None)

    def keep(self, machine_ids: Collection[str]) -> None:
        """Forget how often machines were asked about, but for these and those that wait."""
        self._asked = {
            machine_id: asked
            for machine_id, asked in self._asked.items()
            if machine_id in machine_ids or machine_id in self._waiting
        }

    def forget(self) -> None:
        """Forget everything: another replica is the reaper. Calls under way change nothing any more."""
        for lane in self._lanes.values():
            for machine_id in (*lane.urgent, *lane.others):
                del self._waiting[machine_id]
            lane.urgent.clear()
            lane.others.clear()
        self._asked.clear()

    def close(self) -> None:
        """Ask nobody any more: the next dispatcher's reaper does."""
        self._closed = True
        for lane in self._lanes.values():
            for task in list(lane.tasks):
                task.cancel()

    async def _work(self, lane: _Lane) -> None:
        try:
            while (machine_id := lane.next()) is not None:
                self._asking[machine_id] = False
                try:
                    placement = await self._inquire(machine_id, lane.placement)
                finally:
                    again = self._asking.pop(machine_id)
                    del self._waiting[machine_id]
                if again or placement != lane.placement:
                    self.ask(machine_id, placement, urgent=again)
        finally:
            # In the same step: who asks now must not take this task for one that will.
            lane.tasks = [task for task in lane.tasks if task is not asyncio.current_task()]

    async def _inquire(self, machine_id: str, placement: str | None) -> str | None:
        """Ask about one machine, if it still is at that placement; gives where it is.

        It is asked about again if that fails: its row stays as it is until then.
        """
        with about(machine_id=machine_id):
            try:
                return await self._look_at(machine_id, placement)
            except ProviderError as error:
                log.warning("machine %s: the provider does not say: %s", machine_id, error)
            except SQLAlchemyError as error:
                log.debug("machine %s could not be looked after: %s", machine_id, error)
            except Exception:
                log.exception("machine %s: could not be looked after", machine_id)
        return placement

    async def _look_at(self, machine_id: str, placement: str | None) -> str | None:
        found = await self._store.machine_with_session(machine_id)
        if found is None or not self._leadership.held:
            return placement
        machine, session = found
        if machine.placement != placement:
            return machine.placement
        if session is None or session.over:
            if not self._terminator.under_way(machine_id):
                await self._see_off(machine, session)
        elif machine.state is MachineState.claimed:
            # The end of an unanswered assignment is its launcher's to decide.
            return placement
        elif session.state is not SessionState.queued and self.is_silent(machine_id):
            with about_session(session):
                await self._ask_about(machine, session)
        return placement

    async def _ask_about(self, machine: Machine, session: Session) -> None:
        """Close the session if its machine is gone, or has said nothing for too long.

        Writes down that the machine started, if nobody has.
        """

        def why(current: Session) -> End | None:
            # It may have come up at another placement while this one was asked, or have been heard.
            if current.started_at != session.started_at or not self.is_silent(machine.id):
                return None
            return ends.end_by_loss(status) if lost else ends.end_by_silence(silence)

        asked_at = self._clock.now()
        self._orphan_scan.asked(machine.id)
        try:
            status = await self._fleet.get(machine.placement, machine.id)
        finally:
            self._note(machine.id, alone=False)
        if not self._leadership.held:
            return
        settling, silence = self._fleet.settling(machine.placement), self._unresponsive_seconds
        lost = deadlines.is_lost(status, machine, session, settling, asked_at)
        # Forgotten meanwhile, if it was heard.
        asked = self._asked.get(machine.id)
        silent = 0.0 if asked is None else self._clock.monotonic() - asked.since
        if lost or deadlines.is_unresponsive(session, asked.times if asked else 0, silent, silence):
            await self._terminator.close_if(session, why, REAPER)
        elif status is not None and status.state is MachineState.started and session.started_at is None:
            # Its create was answered before it had started, or not at all.
            await self._repository.change(
                session.id,
                lambda current: transitions.started(current, asked_at, status.startup),
                PROVIDER,
                machine=transitions.machine_started,
            )

    async def _see_off(self, machine: Machine, session: Session | None) -> None:
        """The session is over: its machine goes by itself, or is made to."""
        self._orphan_scan.asked(machine.id)
        try:
            if await self._terminator.note_if_gone(machine.id):
                return
        except ProviderError as error:
            log.warning("machine %s: the provider does not say: %s", machine.id, error)
        finally:
            self._note(machine.id, alone=True)
        if reserve.is_waiting(machine):
            return
        over_at = session.ended_at if session is not None else machine.created_at
        if self._leadership.held and (over_at is None or self._clock.now() > over_at + TERMINATION_SECONDS):
            self._terminator.terminate_later(machine.id, "The session is over.")

    def _note(self, machine_id: str, *, alone: bool) -> None:
        """Note that it was asked about."""
        before = self._asked.get(machine_id)
        now = self._clock.monotonic()
        again = before is not None and before.alone == alone
        times = before.times if before is not None and again else 0
        since = before.since if before is not None and again and self._channels.hears_all else now
        pause = PAUSES[min(times, len(PAUSES) - 1)]
        self._asked[machine_id] = _Asked(alone, times + 1, now + pause, since)
