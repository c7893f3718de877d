"""The one way by which sessions and machines are written: through the lifecycle, and told to who waits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from dispatcher.clock import Clock
from dispatcher.domain import timeline, transitions
from dispatcher.domain.admission import Limits
from dispatcher.domain.idempotency import Claim
from dispatcher.domain.model import End, Machine, MachineState, MachineStatus, Session, SessionState
from dispatcher.domain.timeline import DISPATCHER, PROVIDER, REAPER, Cause
from dispatcher.log_context import about_session
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.store.database import is_outage
from dispatcher.store.store import Store

log = logging.getLogger(__name__)

Observer = Callable[[Session | None, Session], None]
"""Told of every session that was written, as it was before (None: it is new) and as it is."""


class Repository:
    """Writes to the store.

    Args:
        replica: This process. What it asks for carries its name, so that others can go on if it dies.
        observers: Told of every change that this dispatcher makes, right after it was kept.
    """

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        clock: Clock,
        replica: str,
        background: DurableBackground,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.replica = replica
        self._store = store
        self._notifier = notifier
        self._clock = clock
        self._background = background
        self._doubted: dict[str, None] = {}
        """Sessions whose last write may have been kept although its answer was lost."""
        self._observers = list(observers)
        self._on_gone: list[Callable[[], None]] = []

    def observe(self, observer: Observer) -> None:
        """Tell one more of every change."""
        self._observers.append(observer)

    def observe_gone(self, observer: Callable[[], None]) -> None:
        """Tell one more of every machine that this dispatcher writes down as gone: a slot may be free."""
        self._on_gone.append(observer)

    async def add(
        self,
        session: Session,
        machine: Machine,
        admitted: Machine,
        limits: Limits,
        by: str,
        claim: Claim | None,
    ) -> tuple[Session, Machine] | None:
        """Write a new session, as `Writes.add` does."""
        added = await self._store.writes.add(session, machine, admitted, limits, by, claim)
        if added is not None:
            after = added[0]
            with about_session(after):
                words = "session %s of %s: %s, for machine %s"
                log.info(words, after.id, after.agent, after.state, after.machine_id)
            # Nobody can wait for a session that was not there.
            self._tell_observers(None, session)
            if after != session:
                self._tell_observers(session, after)
        return added

    async def admit_next(
        self, limits: Limits, admit: Callable[[Session, Machine, float], Machine]
    ) -> tuple[Session, Machine] | None:
        """Give a free slot to the session that has waited longest, as `Writes.admit_next` does."""
        admitted = await self._store.writes.admit_next(limits, admit, self._clock.now())
        if admitted is not None:
            after = admitted[0]
            with about_session(after):
                log.info("session %s: %s → %s", after.id, SessionState.queued, after.state)
            self._tell(transitions.unadmitted(after), after)
        return admitted

    async def change(
        self,
        session_id: str,
        change: Callable[[Session], Session],
        by: str = DISPATCHER,
        machine: Callable[[Machine], Machine] | None = None,
        if_ours: bool = False,
    ) -> Session | None:
        """Apply a change of the lifecycle, and one of its machine with it. None if there is no such session.

        Args:
            by: Who causes the change, for the timeline.
            if_ours: True to change nothing if another replica asks for the session's machine by now.
        """
        launcher = self.replica if if_ours else None
        cause = Cause(by, self._clock.now())
        try:
            updated = await self._store.writes.update_session(session_id, change, cause, machine, launcher)
        except SQLAlchemyError as error:
            if is_outage(error):
                self._doubt(session_id)
            raise
        return None if updated is None else self._written(*updated)

    def _doubt(self, session_id: str) -> None:
        """Have those who wait for a session read it once the store answers: nobody may write it again."""
        if not self._doubted:
            self._background.spawn(self._tell_doubted())
        self._doubted[session_id] = None

    async def _tell_doubted(self) -> None:
        try:
            await self._background.until_back()
        finally:
            doubted, self._doubted = self._doubted, {}
        for session_id in doubted:
            self._notifier.notify(session_id)

    async def change_of_machine(
        self,
        machine_id: str,
        change: Callable[[Session], Session],
        by: str,
        machine: Callable[[Machine], Machine] | None = None,
    ) -> Session | None:
        """Apply a change of the lifecycle to a machine's session, and one to the machine with it.

        None if the machine has no session.
        """
        cause = Cause(by, self._clock.now())
        updated = await self._store.writes.update_session_of(machine_id, change, cause, machine)
        return None if updated is None else self._written(*updated)

    def _written(self, before: Session, after: Session) -> Session:
        """Log a session's change, tell everybody who waits for it, and return the session as it is."""
        if before != after:
            if before.state is not after.state:
                why = f": {after.message}" if after.message else ""
                level = logging.WARNING if after.state is SessionState.failed else logging.INFO
                if after.reason == "throttled":
                    # The fleet logs how many there are: thousands of them are no news one by one.
                    level = logging.DEBUG
                with about_session(after):
                    log.log(level, "session %s: %s → %s%s", after.id, before.state, after.state, why)
            self._tell(before, after)
        else:
            # It may be like this by a write whose answer was lost: who waits for it has not heard.
            self._notifier.notify(after.id, after)
        return after

    async def until(self, session_id: str, reached: Callable[[Session], bool]) -> Session | None:
        """Wait until a session is as asked for; None if there is no such session.

        Args:
            reached: Once true of a session, it stays so: writes of one row may be told out of their order.
        """
        return await self._notifier.until_session(session_id, self._store.session, reached)

    async def end(self, session_id: str, end: End, by: str = DISPATCHER) -> Session | None:
        """Close a session's row with this reason, if it is still open."""
        now = self._clock.now()
        return await self.change(session_id, lambda current: transitions.over(current, end, now), by)

    async def change_machine(
        self, machine_id: str, change: Callable[[Machine], Machine], by: str
    ) -> Machine | None:
        """Apply a change to a machine. None if there is no such machine."""
        updated = await self._store.writes.update_machine(machine_id, change, Cause(by, self._clock.now()))
        return updated and updated[1]

    async def machine_gone(
        self, machine_id: str, placement: str | None, status: MachineStatus | None
    ) -> bool:
        """Record that a machine is gone from its placement, and how its bot ended.

        Returns:
            False if another placement is asked for the machine by now: nothing is recorded.
        """
        now = self._clock.now()
        machine = await self.change_machine(
            machine_id, lambda current: transitions.gone_from(current, placement, status, now), PROVIDER
        )
        if machine is not None and machine.state is not MachineState.gone:
            return False
        if machine is not None and machine.session_id is not None:
            await self.change(machine.session_id, lambda session: transitions.exited(session, status))
        for observer in self._on_gone:
            observer()
        return True

    async def orphan_stopped(self, machine_id: str, placement: str) -> None:
        """A machine without an owner is being ended: on record, if a session bears its name."""
        cause = Cause(REAPER, self._clock.now())
        session = await self._store.writes.note(
            machine_id, lambda session: timeline.orphan_stopped(machine_id, placement, session, cause)
        )
        if session is not None:
            self._notifier.notify(session.id)

    async def room_event(self, machine_id: str, message: str) -> None:
        """Something is said about the room of the machine's session: on record, while that lives."""
        cause = Cause(PROVIDER, self._clock.now())
        session = await self._store.writes.note(
            machine_id, lambda session: timeline.room_event(message, session, cause)
        )
        if session is not None:
            self._notifier.notify(session.id)

    def tell(self, before: Session, after: Session) -> None:
        """Tell everybody of a change of a session that was written without the repository."""
        self._tell(before, after)

    def _tell(self, before: Session | None, after: Session) -> None:
        self._notifier.notify(after.id, after)
        self._tell_observers(before, after)

    def _tell_observers(self, before: Session | None, after: Session) -> None:
        for observer in self._observers:
            observer(before, after)
