"""The store: reads, retention, leases, and `writes` of sessions and machines. No other package speaks SQL."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from dispatcher.domain.admission import Load
from dispatcher.domain.idempotency import Claim
from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import LIVE, OVER, Machine, Session
from dispatcher.domain.timeline import Event
from dispatcher.store import capacity, leases, queries, retention, rows
from dispatcher.store.database import Database, OnTransaction, Runner, unobserved
from dispatcher.store.leases import Beat
from dispatcher.store.migrate import upgrade
from dispatcher.store.outbox import Outbox
from dispatcher.store.queries import Counts
from dispatcher.store.reserves import Reserves
from dispatcher.store.tables import claims, events, messages, sessions
from dispatcher.store.writes import Writes, find_claim

RECENT = 20
"""From so many of its last sessions an agent's waiting times are estimated."""

ENDING_SECONDS = 60.0
"""Longest time that a session that is over keeps its slot, by default (`Settings.ending_seconds`)."""

MESSAGES_KEPT_SECONDS = 60.0
"""A replica reads a message within milliseconds, or has lost it."""


class Store:
    """The store behind one database URL. `open` migrates it and must come first.

    Every method may raise SQLAlchemyError: the database does not answer. A write that raised it may have been
    kept; to repeat it is safe.

    Args:
        ending_seconds: Longest time that a session that is over keeps its slot, while its machine is not
            known to be gone.
        tells: True to write the messages about sessions to the outbox.
    """

    def __init__(
        self,
        url: str | sa.URL,
        runner: Runner | None = None,
        on_transaction: OnTransaction = unobserved,
        ending_seconds: float = ENDING_SECONDS,
        *,
        tells: bool = False,
    ) -> None:
        self._database = Database(url, runner, on_transaction)
        self.writes = Writes(self._database, ending_seconds, tells=tells)
        self.outbox = Outbox(self._database)
        self.reserves = Reserves(self._database)
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
        return await self._database.read(lambda connection: find_claim(connection, claim_id, now), quick=True)

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
        """Return the numbers of live sessions and machines."""
        return await self._database.read(queries.count_live)

    async def list_sessions(
        self, wanted: Filter, behind: Cursor | None, limit: int, offset: int = 0
    ) -> Sequence[Session]:
        """A page of sessions, newest first, without their bodies, ICE servers and rooms."""
        query = queries.page(wanted, behind, limit, offset)
        return await self._database.read(lambda connection: rows.many(connection, Session, query))

    async def count_sessions(self, wanted: Filter, at_most: int) -> int:
        """Return the number of sessions, or `at_most` if there are more, which would take ever longer."""
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

    async def events(self, session_id: str, after: int = 0, most: int | None = None) -> Sequence[Event]:
        """A session's timeline from the event after that number on, oldest first; so many at most."""
        query = rows.select(Event).where(events.c.session_id == session_id, events.c.number > after)
        query = query.limit(most)
        return await self._database.read(
            lambda connection: rows.many(connection, Event, query.order_by(events.c.number))
        )
