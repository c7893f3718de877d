"""The store: all that the dispatcher keeps. No other package speaks SQL.

Every change of a session or a machine is a pure function from `domain/transitions.py`, applied inside a
transaction to the row as it then is, and the events of the timeline that follow from it are written with it.
What a transaction read is locked (PostgreSQL) or nobody else writes meanwhile (SQLite).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dispatcher.domain import timeline, transitions
from dispatcher.domain.admission import Limits, Load
from dispatcher.domain.idempotency import AlreadyClaimed, Claim
from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import LIVE, OVER, Machine, MachineState, Session
from dispatcher.domain.timeline import Cause, Event
from dispatcher.store import capacity, leases, queries, retention, rows
from dispatcher.store.database import Database, OnTransaction, Runner, unobserved
from dispatcher.store.leases import Beat
from dispatcher.store.migrate import upgrade
from dispatcher.store.queries import Counts
from dispatcher.store.tables import claims, events, messages, sessions

RECENT = 20
"""From so many of its last sessions an agent's waiting times are estimated."""

ENDING_SECONDS = 60.0
"""How long a session that is over keeps its line at most, by default (`Settings.ending_seconds`)."""

MESSAGES_KEPT_SECONDS = 60.0
"""A replica reads a message within milliseconds, or has lost it."""


class Store:
    """The store behind one database URL. `open` migrates it and must come first.

    Every method may raise SQLAlchemyError: the database does not answer. A write that raised it may have been
    kept; to repeat it is safe.

    Args:
        ending_seconds: How long a session that is over keeps its line at most, while its machine is not known
            to be gone.
    """

    def __init__(
        self,
        url: str | sa.URL,
        runner: Runner | None = None,
        on_transaction: OnTransaction = unobserved,
        ending_seconds: float = ENDING_SECONDS,
    ) -> None:
        self._ending_seconds = ending_seconds
        self._database = Database(url, runner, on_transaction)
        self.ballast = self._database.ballast
        """Room that is kept on the disk of the database."""

    async def open(self) -> None:
        """Make the database if there is none, and migrate it to the newest revision."""
        await self._database.migrate(upgrade)

    async def close(self) -> None:
        await self._database.close()

    async def ping(self) -> None:
        """Write a row. Raises what the database raises if it cannot be written."""
        await self._database.write(capacity.write_one)

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for another database, and for one in memory."""
        return self._database.file

    def lost_file(self) -> Path | None:
        """SQLite's file, if it is no longer the one that was opened."""
        return self._database.lost_file()

    async def add(
        self,
        session: Session,
        machine: Machine,
        admitted: Machine,
        limits: Limits,
        actor: str,
        claim: Claim | None = None,
    ) -> tuple[Session, Machine] | None:
        """Write a new session with its machine: admitted if there is a line, else queued if it may be.

        Args:
            admitted: The machine if the session is admitted.
            actor: The caller.
            claim: The key that stands for the session from now on.

        Returns:
            Both as they were written, or None if there is neither a line nor a place in the queue.

        Raises:
            AlreadyClaimed: the key stands for another session.
        """
        now = session.created_at

        def write(connection: sa.Connection) -> tuple[Session, Machine]:
            if claim is not None:
                _stake(connection, claim, now)
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
            if claim is None or (standing := await self.claim(claim.id, now)) is None:
                raise
            raise AlreadyClaimed(claim, standing) from None

    async def admit_next(
        self, limits: Limits, admit: Callable[[Session, Machine, float], Machine], now: float
    ) -> tuple[Session, Machine] | None:
        """Give a free line to who has waited longest for it; None if there is no line or nobody waits."""

        def write(connection: sa.Connection) -> tuple[Session, Machine] | None:
            waiting = capacity.next_in_line(connection, limits, now)
            if waiting is None:
                return None
            change = lambda current: transitions.admitted(current, now)  # noqa: E731 - it has one use
            updated = self._update_session(connection, waiting.id, change, Cause(timeline.DISPATCHER, now))
            machine = rows.change(
                connection, Machine, waiting.machine_id, lambda machine: admit(waiting, machine, now)
            )
            return (updated[1], machine[1]) if updated is not None and machine is not None else None

        return await self._database.write(write)

    async def free_lines(self, now: float) -> int:
        """Free the lines of sessions whose machines had their grace to be gone, and return how many."""
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

    async def place(self, session: Session) -> tuple[int, list[float]]:
        """A waiting session's place in its agent's queue (1 is next), and how long its last ones took."""

        def read(connection: sa.Connection) -> tuple[int, list[float]]:
            taken = sessions.c.ended_at - sessions.c.admitted_at
            done = (sessions.c.agent == session.agent, sessions.c.state.in_(OVER), taken.is_not(None))
            last = sa.select(taken).where(*done).order_by(sessions.c.created_at.desc()).limit(RECENT)
            return capacity.place(connection, session), list(connection.scalars(last))

        return await self._database.read(read)

    async def loads(self) -> Mapping[str, Load]:
        """Agent → how many of its sessions are live and queued."""
        return await self._database.read(capacity.counted)

    async def claim(self, claim_id: str, now: float) -> Claim | None:
        """The session that a key stands for, unless its time is up."""
        return await self._database.read(lambda connection: _claim(connection, claim_id, now), quick=True)

    async def delete_expired_claims(self, now: float, limit: int) -> int:
        """Delete keys whose time is up, at most `limit`; gives how many."""
        expired = sa.select(claims.c.id).where(claims.c.expires_at <= now).limit(limit)
        delete = sa.delete(claims).where(claims.c.id.in_(expired.scalar_subquery()))
        return await self._database.write(lambda connection: connection.execute(delete).rowcount)

    async def delete_old_messages(self, now: float, limit: int) -> int:
        """Delete messages that all replicas have read long ago, at most `limit`; gives how many."""
        old = sa.select(messages.c.id).where(messages.c.created_at <= now - MESSAGES_KEPT_SECONDS)
        delete = sa.delete(messages).where(messages.c.id.in_(old.limit(limit).scalar_subquery()))
        return await self._database.write(lambda connection: connection.execute(delete).rowcount)

    async def delete_old_sessions(self, before: float, limit: int) -> int:
        """Delete sessions that were over before that moment, with all that is theirs; gives how many.

        A session whose machine is not known to be gone is kept. Its room has closed by itself by then:
        sessions are kept for a day at least, and last no longer.
        """
        return await self._database.write(
            lambda connection: retention.delete_sessions(connection, before, limit)
        )

    async def beat(
        self, replica: str, names: Collection[str], still: Mapping[str, Beat], alone: bool
    ) -> Mapping[str, Beat]:
        """Renew and take leases, as `leases.beat` does."""
        return await self._database.write(
            lambda connection: leases.beat(connection, replica, names, still, alone)
        )

    async def release_leases(self, replica: str) -> None:
        """Let go of everything that the replica holds."""
        await self._database.write(lambda connection: leases.release(connection, replica))

    async def forget_leases(self, still: Mapping[str, Beat]) -> None:
        """Delete leases that stand still, unless they moved meanwhile."""
        await self._database.write(lambda connection: leases.forget(connection, still))

    async def session(self, session_id: str) -> Session | None:
        one = rows.ONE[Session]
        return await self._database.read(
            lambda connection: rows.one(connection, Session, one, session_id), quick=True
        )

    async def session_with_machine(self, session_id: str) -> tuple[Session | None, Machine | None]:
        return await self._database.read(
            lambda connection: (
                rows.one(connection, Session, rows.ONE[Session], session_id),
                rows.one(connection, Machine, rows.MACHINE_OF, session_id),
            ),
            quick=True,
        )

    async def session_of_machine(self, machine_id: str) -> Session | None:
        one = rows.OF_MACHINE
        return await self._database.read(
            lambda connection: rows.one(connection, Session, one, machine_id), quick=True
        )

    async def machine(self, machine_id: str) -> Machine | None:
        one = rows.ONE[Machine]
        return await self._database.read(
            lambda connection: rows.one(connection, Machine, one, machine_id), quick=True
        )

    async def live_sessions(self) -> Sequence[Session]:
        query = rows.select(Session).where(sessions.c.state.in_(LIVE)).order_by(sessions.c.created_at)
        return await self._database.read(lambda connection: rows.many(connection, Session, query))

    async def counts(self) -> Counts:
        """How many sessions and machines are live."""
        return await self._database.read(queries.count_live)

    async def list_sessions(
        self, wanted: Filter, behind: Cursor | None, limit: int, offset: int = 0
    ) -> Sequence[Session]:
        """A page of sessions, newest first, without their bodies, ICE servers and rooms."""
        query = queries.page(wanted, behind, limit, offset)
        return await self._database.read(lambda connection: rows.many(connection, Session, query))

    async def count_sessions(self, wanted: Filter, at_most: int) -> int:
        """How many there are, or `at_most` if there are more: counting all of them would take ever longer."""
        query = queries.count(wanted, at_most)
        return await self._database.read(lambda connection: min(connection.scalar(query) or 0, at_most))

    async def live_machines(
        self,
        behind: str = "",
        *,
        limit: int = queries.PAGE,
        placement: str | None = None,
        started_before: float = math.inf,
    ) -> queries.Page:
        """Machines that are not known to be gone: the first ones behind this id, of one placement or of all.

        Args:
            started_before: In unix seconds. Who started later is not among the `started`.
        """
        return await self._database.read(
            lambda connection: queries.live(connection, behind, limit, placement, started_before)
        )

    async def due_machines(
        self, now: float, others: Collection[str] = ()
    ) -> Sequence[tuple[Machine, Session | None]]:
        """Machines that somebody must look after by now, and these others, unless they are known to be gone.

        Their sessions come as lists have them: without bodies, ICE servers and rooms.
        """
        return await self._database.read(lambda connection: queries.due(connection, now, others))

    async def machine_with_session(self, machine_id: str) -> tuple[Machine, Session | None] | None:
        """Return one machine with its session; None if it is known to be gone."""
        found = await self._database.read(
            lambda connection: queries.pairs(connection, [machine_id]), quick=True
        )
        return found[0] if found else None

    async def rooms_due(self, now: float, limit: int) -> Sequence[Session]:
        """Sessions that are over and whose rooms have to be deleted by now, as lists have them."""
        return await self._database.read(lambda connection: queries.rooms(connection, now, limit))

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
            updated = self._update_session(connection, session_id, change, cause, machine)
            if updated is None or machine is None:
                return updated
            before, after = updated
            moved = _update_machine(connection, after.machine_id, machine, after, cause)
            if moved is not None and moved[1].state is MachineState.gone:
                after = transitions.line_free(after)
            return before, after

        return await self._database.write(write, quick=True)

    def _update_session(
        self,
        connection: sa.Connection,
        session_id: str,
        change: Callable[[Session], Session],
        cause: Cause,
        of_machine: Callable[[Machine], Machine] | None = None,
    ) -> tuple[Session, Session] | None:
        """Change a session and count its line.

        Args:
            of_machine: What becomes of its machine in the same transaction.
        """

        def changed(current: Session) -> Session:
            after = change(current)
            if not after.over or current.over:
                return after
            # No machine becomes gone meanwhile: that is written under the lock of its session.
            machine = rows.one(connection, Machine, rows.MACHINE_OF, session_id)
            if machine is not None and of_machine is not None:
                machine = of_machine(machine)
            return transitions.ending(current, after, machine, self._ending_seconds)

        updated = rows.change(connection, Session, session_id, changed)
        if updated is not None:
            rows.note(connection, session_id, timeline.changed(*updated, cause))
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

    async def events(self, session_id: str, after: int = 0, most: int | None = None) -> Sequence[Event]:
        """A session's timeline from the event after that number on, oldest first; so many at most."""
        query = rows.select(Event).where(events.c.session_id == session_id, events.c.number > after)
        query = query.limit(most)
        return await self._database.read(
            lambda connection: rows.many(connection, Event, query.order_by(events.c.number))
        )


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


def _claim(connection: sa.Connection, claim_id: str, now: float) -> Claim | None:
    query = sa.select(claims).where(claims.c.id == claim_id, claims.c.expires_at > now)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else Claim(**row)


def _stake(connection: sa.Connection, claim: Claim, now: float) -> None:
    """Write a key's claim in the place of one whose time is up."""
    if (standing := _claim(connection, claim.id, now)) is not None:
        raise AlreadyClaimed(claim, standing)
    connection.execute(sa.delete(claims).where(claims.c.id == claim.id, claims.c.expires_at <= now))
    connection.execute(sa.insert(claims).values(**asdict(claim)))
