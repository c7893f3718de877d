"""Writes of sessions and machines: each is a change of the lifecycle, in one transaction.

A change is a pure function from `domain/transitions.py`, applied to the row as it then is; the events of the
timeline that follow from it are written with it, and slots are counted in it. What a transaction read is
locked (PostgreSQL), or nobody else writes meanwhile (SQLite).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dispatcher.domain import outgoing, timeline, transitions
from dispatcher.domain.admission import Limits
from dispatcher.domain.idempotency import AlreadyClaimed, Claim
from dispatcher.domain.model import Machine, MachineState, Session
from dispatcher.domain.timeline import Cause, Event
from dispatcher.store import capacity, outbox, rows
from dispatcher.store.database import Database
from dispatcher.store.tables import claims


class Writes:
    """Writes to one database.

    Args:
        ending_seconds: Longest time that a session that is over keeps its slot, while its machine is not
            known to be gone.
        tells: True to write the messages about sessions to the outbox.
    """

    def __init__(self, database: Database, ending_seconds: float, *, tells: bool = False) -> None:
        self._database = database
        self._tells = tells
        self._ending_seconds = ending_seconds

    async def add(
        self,
        session: Session,
        machine: Machine,
        admitted: Machine,
        limits: Limits,
        actor: str,
        claim: Claim | None = None,
    ) -> tuple[Session, Machine] | None:
        """Write a new session with its machine: admitted if there is a slot, else queued if it may be.

        Args:
            admitted: The machine if the session is admitted.
            actor: The caller.
            claim: The key that stands for the session from now on.

        Returns:
            Both as they were written, or None if there is neither a slot nor a place in the queue.

        Raises:
            AlreadyClaimed: the key stands for another session.
        """
        now = session.created_at

        def write(connection: sa.Connection) -> tuple[Session, Machine]:
            if claim is not None:
                stake_claim(connection, claim, now)
            after, of_session = transitions.admitted(session, now), admitted
            if capacity.enter_at_once(connection, after, of_session, told(after), limits):
                return after, of_session
            if not capacity.enter(connection, session, limits):
                after, of_session = session, machine
            rows.add(connection, of_session)
            rows.add(connection, after)
            rows.note(connection, session.id, told(after))
            return after, of_session

        def told(after: Session) -> list[Event]:
            changed = timeline.changed(session, after, Cause(actor, now))
            return [timeline.asked(session, actor), *changed]

        try:
            return await self._database.write(write, quick=True)
        except capacity.Full:
            return None
        except IntegrityError:
            # PostgreSQL says so late, when another replica has committed the same key meanwhile.
            if claim is None or (standing := await self._claim(claim.id, now)) is None:
                raise
            raise AlreadyClaimed(claim, standing) from None

    async def admit_next(
        self, limits: Limits, admit: Callable[[Session, Machine, float], Machine], now: float
    ) -> tuple[Session, Machine] | None:
        """Give a free slot to the session that has waited longest; None without a slot or a queue."""

        def write(connection: sa.Connection) -> tuple[Session, Machine] | None:
            waiting = capacity.next_queued(connection, limits, now)
            if waiting is None:
                return None
            change = lambda current: transitions.admitted(current, now)  # noqa: E731 - it has one use
            cause = Cause(timeline.DISPATCHER, now)
            updated = self._update_session(connection, waiting.id, change, cause)
            machine = rows.change(
                connection, Machine, waiting.machine_id, lambda machine: admit(waiting, machine, now)
            )
            return (updated[1], machine[1]) if updated is not None and machine is not None else None

        return await self._database.write(write)

    async def free_slots(self, now: float) -> int:
        """Free the slots of sessions whose machines had their grace to be gone, and return how many."""
        freed = 0
        while agent := await self._database.read(lambda connection: capacity.overdue(connection, now)):
            number = await self._database.write(
                lambda connection, agent=agent: capacity.free_overdue(connection, agent, now)
            )
            if number == 0:
                # Others hold their rows locked, perhaps to write that the machines are gone.
                break
            freed += number
        return freed

    async def update_session(
        self,
        session_id: str,
        change: Callable[[Session], Session],
        cause: Cause,
        machine: Callable[[Machine], Machine] | None = None,
        launcher: str | None = None,
    ) -> tuple[Session, Session] | None:
        """Apply a change of the lifecycle, and one of its machine's with it.

        Gives the session before and after, or None if there is none.

        Args:
            launcher: Nothing changes if another replica than this one asks for the session's machine by now.
        """

        def write(connection: sa.Connection) -> tuple[Session, Session] | None:
            if launcher is not None:
                # Locked, as by whoever takes the machine over.
                current = rows.one(connection, Session, rows.LOCK[Session], session_id)
                wanted = rows.one(connection, Machine, rows.MACHINE_OF, session_id)
                if current is None or wanted is None or wanted.launcher != launcher:
                    return None if current is None else (current, current)
            updated = self._update_session(connection, session_id, change, cause, of_machine=machine)
            if updated is None or machine is None:
                return updated
            before, after = updated
            moved = _update_machine(connection, after.machine_id, machine, after, cause)
            if moved is not None and moved[1].state is MachineState.gone:
                after = transitions.slot_free(after)
            return before, after

        return await self._database.write(write, quick=True)

    async def update_session_of(
        self,
        machine_id: str,
        change: Callable[[Session], Session],
        cause: Cause,
        machine: Callable[[Machine], Machine] | None = None,
    ) -> tuple[Session, Session] | None:
        """Apply a change to the session of a machine, and one to the machine with it.

        Gives the session before and after, or None if there is none.
        """

        def write(connection: sa.Connection) -> tuple[Session, Session] | None:
            updated = self._update_session(connection, machine_id, change, cause, lock=rows.LOCK_OF_MACHINE)
            if updated is not None and machine is not None:
                _update_machine(connection, machine_id, machine, updated[1], cause)
            return updated

        return await self._database.write(write, quick=True)

    def _update_session(
        self,
        connection: sa.Connection,
        key: str,
        change: Callable[[Session], Session],
        cause: Cause,
        *,
        lock: rows.Statement | None = None,
        of_machine: Callable[[Machine], Machine] | None = None,
    ) -> tuple[Session, Session] | None:
        """Change a session and count its slot.

        Args:
            lock: Finds and locks the session by this key; by default the key is its id.
            of_machine: What becomes of its machine in the same transaction.
        """

        def changed(current: Session) -> Session:
            after = change(current)
            if not after.over or current.over:
                return after
            # No machine becomes gone meanwhile: that is written under the lock of its session.
            machine = rows.one(connection, Machine, rows.MACHINE_OF, current.id)
            if machine is not None and of_machine is not None:
                machine = of_machine(machine)
            return transitions.ending(current, after, machine, self._ending_seconds)

        updated = rows.change(connection, Session, key, changed, lock)
        if updated is not None:
            events = timeline.changed(*updated, cause)
            rows.note(connection, updated[1].id, events)
            if self._tells:
                outbox.put(connection, outgoing.following(updated[1].id, events))
            capacity.moved(connection, *updated)
        return updated

    async def update_machine(
        self, machine_id: str, change: Callable[[Machine], Machine], cause: Cause
    ) -> tuple[Machine, Machine] | None:
        # The session's row is locked first, as every writer of its timeline does: events have one order.
        return await self._database.write(
            lambda connection: _update_machine(
                connection,
                machine_id,
                change,
                rows.one(connection, Session, rows.LOCK_OF_MACHINE, machine_id),
                cause,
            ),
            quick=True,
        )

    async def note(self, machine_id: str, event: Callable[[Session], Event | None]) -> Session | None:
        """Write an event without a change into the timeline of a machine's session; None if it has none."""

        def write(connection: sa.Connection) -> Session | None:
            session = rows.one(connection, Session, rows.LOCK_OF_MACHINE, machine_id)
            if session is not None and (new := event(session)) is not None:
                rows.note(connection, session.id, [new])
            return session

        return await self._database.write(write)

    async def _claim(self, claim_id: str, now: float) -> Claim | None:
        return await self._database.read(lambda connection: find_claim(connection, claim_id, now))


def _update_machine(
    connection: sa.Connection,
    machine_id: str,
    change: Callable[[Machine], Machine],
    session: Session | None,
    cause: Cause,
) -> tuple[Machine, Machine] | None:
    updated = rows.change(connection, Machine, machine_id, change)
    if updated is not None and session is not None:
        rows.note(connection, session.id, timeline.machine_changed(*updated, session, cause))
        if updated[1].state is MachineState.gone and session.line_until is not None:
            capacity.free(connection, session.id)
    return updated


def find_claim(connection: sa.Connection, claim_id: str, now: float) -> Claim | None:
    query = sa.select(claims).where(claims.c.id == claim_id, claims.c.expires_at > now)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Claim(**row)


def stake_claim(connection: sa.Connection, claim: Claim, now: float) -> None:
    """Write a key's claim in the place of one whose time is up."""
    if (standing := find_claim(connection, claim.id, now)) is not None:
        raise AlreadyClaimed(claim, standing)
    connection.execute(sa.delete(claims).where(claims.c.id == claim.id, claims.c.expires_at <= now))
    connection.execute(sa.insert(claims).values(**asdict(claim)))
