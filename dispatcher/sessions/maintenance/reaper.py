"""Looks after every machine that is not gone: deadlines, silence, and what a crash left half done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain import deadlines, reserve, transitions
from dispatcher.domain.model import Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import REAPER
from dispatcher.log_context import about, about_session
from dispatcher.sessions.launcher import Launcher
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.sessions.maintenance.probes import Probes
from dispatcher.sessions.maintenance.retention import Retention
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store
from dispatcher.tasks import rest

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
"""Interval between two looks of the reaper. What is due is found each time."""

MOST_AT_ONCE = 500
"""Machines whose channels broke, and others to ask about, that one look reads: there may be thousands."""

YIELD_AFTER = 50
"""Machines that are looked at in one piece: a millisecond or two, in which no start goes on."""

SEARCH_SHARE = 0.02
"""The part of the time that may go into the search for machines that are silent, and for those whose sessions
are over: of very many, each look searches some."""


class Reaper:
    """The reaper. The replica with the lease works; the others watch that it lives.

    A look waits for the store alone: what only a provider can say, `Probes` find out.

    Args:
        on_round: Is told of every round that this replica made as the reaper: whether it could be finished,
            and how many seconds it took.
    """

    def __init__(
        self,
        *,
        terminator: Terminator,
        queue: Queue,
        store: Store,
        probes: Probes,
        leadership: Leadership,
        launcher: Launcher,
        retention: Retention,
        clock: Clock,
        on_round: Callable[[bool, float], None],
    ) -> None:
        self._terminator = terminator
        self._queue = queue
        self._store = store
        self._probes = probes
        self._leadership = leadership
        self._launcher = launcher
        self._retention = retention
        self._clock = clock
        self._on_round = on_round
        self._nudged = asyncio.Event()
        # In order, so that what happens does not depend on how ids hash.
        self._lost: dict[str, None] = {}
        self._searched_to = ""
        self._search_at = float("-inf")
        self._found: set[str] = set()
        self._looking = asyncio.Lock()
        self._stopping = False

    def nudge(self) -> None:
        """Something happened that cannot wait for the next tick."""
        self._nudged.set()

    def lost(self, machine_id: str) -> None:
        """A machine's channel broke: ask about it now, whenever it was asked about before it was there."""
        self._probes.lost(machine_id)
        self._lost[machine_id] = None
        self.nudge()

    def stop(self) -> None:
        """End `run` after the round that it is in."""
        self._stopping = True
        self.nudge()

    async def run(self) -> None:
        """Look, again and again, until stopped."""
        while not self._stopping:
            began_at, finished, ours = self._clock.monotonic(), False, True
            try:
                ours = await self.tick()
                finished = True
            except SQLAlchemyError as error:
                log.debug("the reaper could not finish its round: %s", error)
            except Exception:
                log.exception("the reaper could not finish its round")
            if ours:
                self._on_round(finished, self._clock.monotonic() - began_at)
            await self._pause()

    async def tick(self) -> bool:
        """One look at what is due. False if this replica is not the reaper.

        One at a time: two looks would both take over what they find left alone.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        if not await self._leadership.keep():
            self._probes.forget()
            self._lost.clear()
            self._searched_to, self._search_at = "", float("-inf")
            self._found.clear()
            return False
        silent = self._probes.silent(self._lost)
        lost, self._lost = dict.fromkeys(silent[:MOST_AT_ONCE]), dict.fromkeys(silent[MOST_AT_ONCE:])
        try:
            return await self._look_after(lost)
        except SQLAlchemyError:
            self._lost = lost | self._lost
            raise

    async def _look_after(self, lost: Collection[str]) -> bool:
        """Look after what is due or may be silent, and after these machines, whose channels broke."""
        found = (await self._search())[:MOST_AT_ONCE]
        due = await self._store.due_machines(self._clock.now(), [*lost, *found])
        self._found.update(machine.id for machine, _ in due)
        if self._leadership.held:
            await self._end(due)
        await self._store.writes.free_slots(self._clock.now())
        # Who waits for a slot needs nothing else of this look, and nobody else's slot any more.
        self._queue.nudge()
        for number, (machine, session) in enumerate(due):
            if not self._leadership.held:
                return False
            if number % YIELD_AFTER == YIELD_AFTER - 1:
                await asyncio.sleep(0)
            with about(machine_id=machine.id) if session is None else about_session(session):
                try:
                    await self._look_at(machine, session, urgent=machine.id in lost)
                except SQLAlchemyError:
                    raise
                except Exception:
                    log.exception("machine %s: could not be looked after", machine.id)
        await self._retention.clean()
        return True

    async def end_overdue(self) -> None:
        """End what is overdue, before this dispatcher admits anything; whichever replica is the reaper."""
        try:
            await self._end(await self._store.due_machines(self._clock.now()))
            await self._store.writes.free_slots(self._clock.now())
        except SQLAlchemyError as error:
            log.debug("overdue sessions are left to the reaper's rounds: %s", error)

    async def _end(self, due: Sequence[tuple[Machine, Session | None]]) -> None:
        """End those of these sessions that are overdue."""
        for machine, session in due:
            if session is None or deadlines.overdue(session, self._clock.now()) is None:
                continue
            with about_session(session):
                try:
                    # The row as it is by now decides: what it waited for may have come.
                    await self._terminator.close_if(
                        session, lambda current: deadlines.overdue(current, self._clock.now()), REAPER
                    )
                except SQLAlchemyError:
                    raise
                except Exception:
                    log.exception("machine %s: could not be looked after", machine.id)

    async def _search(self) -> list[str]:
        """Machines to ask about, of the stretch of all ids that this look searches."""
        began_at = self._clock.monotonic()
        if began_at < self._search_at:
            return []
        found: list[str] = []
        while True:
            page = await self._store.live_machines(self._searched_to)
            silent = self._probes.silent(page.started)
            left = [name for name in page.alone if not self._terminator.under_way(name)]
            self._found.update(silent, page.alone)
            found += [name for name in silent if self._probes.is_due(name, alone=False)]
            found += [name for name in left if self._probes.is_due(name, alone=True)]
            self._searched_to = page.last or ""
            if page.last is None:
                self._probes.keep(self._found)
                self._found.clear()
            took = self._clock.monotonic() - began_at
            if page.last is None or took >= SEARCH_SHARE * TICK_SECONDS:
                self._search_at = began_at + min(took / SEARCH_SHARE, TICK_SECONDS)
                return found

    async def _pause(self) -> None:
        try:
            await rest(self._clock, TICK_SECONDS, self._nudged)
        finally:
            self._nudged.clear()

    async def _look_at(self, machine: Machine, session: Session | None, *, urgent: bool) -> None:
        if session is None or session.over:
            if self._terminator.under_way(machine.id):
                return
            # One that waits is the keeper's to end; only its provider knows of one that broke off.
            if reserve.is_waiting(machine) and not urgent:
                return
            if urgent or self._probes.is_due(machine.id, alone=True):
                self._probes.ask(machine.id, machine.placement, urgent=urgent)
            return
        if machine.state is MachineState.claimed:
            # Its launcher waits for its answer, and then makes another one.
            if await self._leadership.is_gone(machine.launcher):
                await self._launcher.fall_back(session, machine)
            return
        now = self._clock.now()
        if transitions.left_alone(machine, session, now) and await self._leadership.is_gone(machine.launcher):
            await self._launcher.take_over(session, machine)
            return
        if (
            deadlines.overdue(session, now) is None
            and session.state is not SessionState.queued
            and self._probes.is_silent(machine.id)
            and (urgent or self._probes.is_due(machine.id, alone=False))
        ):
            self._probes.ask(machine.id, machine.placement, urgent=urgent)
