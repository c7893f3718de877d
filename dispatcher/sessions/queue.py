"""The queue: admits the session that has waited longest when a slot becomes free, and tells places."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.domain import admission, deadlines, transitions
from dispatcher.domain.admission import Limits, Place
from dispatcher.domain.model import Machine, Session, SessionState
from dispatcher.machines.fleet import Fleet
from dispatcher.sessions.launcher import Launcher
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.repository import Repository
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from dispatcher.tasks import Background

log = logging.getLogger(__name__)


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings name."""
    return Limits(
        agents={name: agent.max_sessions for name, agent in settings.agents.items()},
        queues={name: agent.max_queued for name, agent in settings.agents.items()},
        deployment=settings.max_sessions,
    )


class Queue:
    """Admits sessions that wait, in their order. Any number of dispatchers may do so at once."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        repository: Repository,
        launcher: Launcher,
        fleet: Fleet,
        notifier: Notifier,
        background: Background,
    ) -> None:
        self.limits = limits_of(settings)
        self._store = store
        self._repository = repository
        self._launcher = launcher
        self._fleet = fleet
        self._agents = settings.agents
        self._notifier = notifier
        self._background = background
        self._advancing: asyncio.Task[None] | None = None
        self._again = False
        self._left = False
        """True if a session gave up its place, so that all behind it have moved."""
        self._closed = False
        repository.observe(self._observe)
        repository.observe_gone(self.nudge)

    def nudge(self) -> None:
        """Admit who waits, if a slot is free: one may have become free."""
        self._again = True
        if not self._closed and (self._advancing is None or self._advancing.done()):
            self._advancing = self._background.spawn(self._advance())

    def close(self) -> None:
        """Admit nobody any more: another dispatcher will."""
        self._closed = True

    async def would_refuse(self, agent: str, queue_seconds: float) -> bool:
        """Return True if there is neither a slot for a new session now nor a place in the queue.

        The session's write decides; this is for who would spend something before that.
        """
        loads = await self._store.loads()
        return not admission.is_admitted(agent, loads, self.limits) and admission.is_full(
            agent, queue_seconds, loads, self.limits
        )

    async def place(self, session: Session) -> Place | None:
        """Return the session's place in the queue; None if it does not wait."""
        if session.state is not SessionState.queued:
            return None
        number, durations = await self._store.place(session)
        slots = self.limits.agents.get(session.agent, 1)
        return admission.estimate(number, min(slots, self.limits.deployment or slots), durations)

    async def _advance(self) -> None:
        while self._again and not self._closed:
            self._again = False
            moved, self._left = self._left, False
            try:
                while not self._closed and await self._admit():
                    moved = True
                if moved:
                    self._notifier.queue_moved()
            except SQLAlchemyError as error:
                self._left = self._left or moved
                self._launcher.catch_up()
                # The reaper nudges again, as long as anybody waits.
                log.debug("nobody can be admitted: the store does not answer (%s)", error)

    async def _admit(self) -> bool:
        admitted = await self._repository.admit_next(self.limits, self._wanted)
        if admitted is not None:
            self._launcher.launch(*admitted)
        return admitted is not None

    def _wanted(self, session: Session, machine: Machine, now: float) -> Machine:
        """Return the machine's row as it is once its session is admitted."""
        placement, provider = self._fleet.first(self._agents[session.agent].placements)
        create_by = deadlines.create_by(session, now)
        return transitions.wanted(machine, placement, provider, create_by, self._repository.replica)

    def _observe(self, before: Session | None, after: Session) -> None:
        if before is None:
            return
        left = before.state is SessionState.queued and after.over
        self._left = self._left or left
        if left or (before.has_slot and not after.has_slot):
            self.nudge()
