"""Termination of machines: a graceful stop, a kill, and the proof that they are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from bot.protocol import Stop
from dispatcher.clock import Clock
from dispatcher.domain import deadlines, transitions
from dispatcher.domain.model import End, MachineState, Session
from dispatcher.domain.timeline import DISPATCHER
from dispatcher.machines.channels import Channels
from dispatcher.machines.fleet import Fleet
from dispatcher.sessions import failures
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.store.store import Store
from dispatcher.tasks import rest, within

log = logging.getLogger(__name__)

STOP_GRACE = timedelta(seconds=5)
"""Grace for a bot to say goodbye, from the stop message to the signal; and then again to the kill."""

FIRST_LOOK_SECONDS = 0.1
"""From a bot's goodbye to the first look at its machine. Each further one takes twice as long, which makes
six in the whole grace: a cloud counts the calls of its API, of all deployments in an account together."""


class Terminator:
    """Terminates machines: a graceful stop, then a kill."""

    def __init__(
        self,
        *,
        store: Store,
        repository: Repository,
        fleet: Fleet,
        channels: Channels,
        clock: Clock,
        background: DurableBackground,
    ) -> None:
        self._store = store
        self._repository = repository
        self._fleet = fleet
        self._channels = channels
        self._clock = clock
        self._background = background
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._terminating: set[str] = set()
        self._unanswered: set[str] = set()
        self._goodbyes: dict[str, asyncio.Event] = {}

    async def close(self, session: Session, end: End, by: str = DISPATCHER) -> None:
        """Close the session's row with this reason, if it is still open, and terminate its machine."""
        after = await self._repository.end(session.id, end, by)
        self.terminate_later((after or session).machine_id, end.message)

    def close_later(self, session: Session, end: End, by: str) -> None:
        """End the session's machine now, and close its row once the store can be written."""
        self._background.persist_later(lambda: self.close(session, end, by))
        self.terminate_later(session.machine_id, end.message)

    def close_unanswered(self, session: Session, end: End, by: str = DISPATCHER) -> asyncio.Task[None]:
        """Close a session in the background, if it was written at all, once the store says whether it was."""
        self._unanswered.add(session.id)
        closing = self._background.persist_later(lambda: self.close(session, end, by))
        closing.add_done_callback(lambda _: self._unanswered.discard(session.id))
        return closing

    def is_unanswered(self, session_id: str) -> bool:
        """Return True if the session is about to be closed because nobody knows of it."""
        return session_id in self._unanswered

    async def close_if(
        self, session: Session, why: Callable[[Session], End | None], by: str = DISPATCHER
    ) -> None:
        """Close the session, if its row as it is by now gives a reason, and terminate its machine."""

        def change(current: Session) -> Session:
            end = why(current)
            # The moment in which there is a reason: the write may have waited, and the reason come meanwhile.
            return current if end is None else transitions.over(current, end, self._clock.now())

        after = await self._repository.change(session.id, change, by)
        if after is not None and after.over:
            self.terminate_later(after.machine_id, after.message or "The session is over.")

    def terminate_later(self, machine_id: str, why: str) -> None:
        """Terminate a machine in the background, unless that is under way."""
        if machine_id not in self._under_way:
            terminating = self._background.persist_later(lambda: self.terminate(machine_id, why))
            self._under_way[machine_id] = terminating
            terminating.add_done_callback(lambda _: self._under_way.pop(machine_id, None))

    def said_goodbye(self, machine_id: str) -> None:
        """The machine reported its end, or its channel broke: its provider may know more by now."""
        if machine_id in self._goodbyes:
            self._goodbyes[machine_id].set()

    def under_way(self, machine_id: str) -> bool:
        """Return True if the machine is being terminated by this dispatcher, which will note when it is
        gone."""
        return machine_id in self._terminating or machine_id in self._under_way

    def abandon(self) -> None:
        """Leave what is under way to the next dispatcher's reaper.

        Bots that are about to end may wait for an acknowledgement that this one's channels no longer carry.
        """
        for terminating in list(self._under_way.values()):
            terminating.cancel()

    def reported_end(self, session: Session) -> None:
        """Terminate the machine of a session whose bot has reported its end; it goes by itself at first."""
        self._goodbyes.setdefault(session.machine_id, asyncio.Event()).set()
        self.terminate_later(session.machine_id, failures.in_words(session))

    async def terminate(self, machine_id: str, why: str, placement: str | None = None) -> None:
        """End a machine: ask its bot, then the provider, and write down that it is gone.

        Args:
            placement: Where it is; by default where its row says.
        """
        if placement is None:
            machine = await self._store.machine(machine_id)
            placement = machine.placement if machine is not None else None
        goodbye = self._goodbyes.setdefault(machine_id, asyncio.Event())
        self._terminating.add(machine_id)
        try:
            await self._ask_to_go(machine_id, placement, why, goodbye)
            await self._fleet.stop(placement, machine_id, STOP_GRACE)
            await self.note_if_gone(machine_id)
        finally:
            self._goodbyes.pop(machine_id, None)
            self._terminating.discard(machine_id)

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
            if not deadlines.absence_counts(machine, session, settling, asked):
                return False
        elif status.state is not MachineState.gone:
            return False
        return await self._repository.machine_gone(machine_id, machine.placement, status)

    async def _ask_to_go(
        self, machine_id: str, placement: str | None, why: str, goodbye: asyncio.Event
    ) -> None:
        """Ask the bot to end, and wait until its machine is gone; for the bot's grace at most.

        A machine that does not read its channel holds the message back: that is part of the grace.
        """
        deadline = self._clock.monotonic() + STOP_GRACE.total_seconds()
        try:
            sent = await within(
                self._clock,
                STOP_GRACE.total_seconds(),
                self._channels.send(machine_id, Stop(message=why)),
                TimeoutError(),
            )
        except TimeoutError:
            log.warning("machine %s: it does not read its channel, and is ended by its provider", machine_id)
            return
        if sent:
            await self._until_gone(placement, machine_id, goodbye, deadline)

    async def _until_gone(
        self, placement: str | None, machine_id: str, goodbye: asyncio.Event, deadline: float
    ) -> None:
        """Wait until the machine is gone by itself, or the bot's grace is over.

        Nobody but the bot knows when it will be ready to go, so its provider is only asked after its goodbye.
        """
        await rest(self._clock, deadline - self._clock.monotonic(), goodbye)
        pause = FIRST_LOOK_SECONDS
        while (left := deadline - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(pause, left))
            pause *= 2
            status = await self._fleet.get(placement, machine_id)
            if status is None:
                return
            if status.state is MachineState.gone:
                # Its provider may tell only once how it ended.
                await self._repository.machine_gone(machine_id, placement, status)
                return
