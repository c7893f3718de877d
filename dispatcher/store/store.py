"""What the dispatcher keeps, and the only code that speaks SQL.

Every change of a session or a machine is a pure function from `sessions/lifecycle.py`, applied inside a
transaction to the row as it then is, and the events of the timeline that follow from it are written with it.
On SQLite a transaction takes the write lock when it begins, so that what it read still holds when it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from dispatcher.machines.provider import MachineState
from dispatcher.sessions import timeline
from dispatcher.sessions.idempotency import AlreadyClaimed, Claim
from dispatcher.sessions.lifecycle import LIVE, Machine, Session, SessionState
from dispatcher.sessions.listing import Cursor, Filter
from dispatcher.sessions.timeline import Cause, Event
from dispatcher.store import counts, lists
from dispatcher.store.counts import Counts
from dispatcher.store.tables import claims, events, machines, sessions

Row = TypeVar("Row", Session, Machine)
Record = TypeVar("Record", Session, Machine, Event)

READ_ONLY = "switchboard_read_only"
"""The execution option of connections that only read: they need not wait for SQLite's write lock."""

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a transaction waits for SQLite's write lock before the call fails."""


class Store:
    """The store behind one database URL. `open` migrates it and must come first."""

    def __init__(self, url: str | sa.URL) -> None:
        self._engine = _engine(url)
        self._reading = self._engine.execution_options(**{READ_ONLY: True})

    async def open(self) -> None:
        """Make the database if there is none, and migrate it to the newest revision."""
        from dispatcher.store.migrate import upgrade

        database = self._engine.url.database
        if self._engine.dialect.name == "sqlite" and database:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
        async with self._engine.connect() as connection:
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        await self._engine.dispose()

    async def ping(self) -> None:
        """Raises what the database raises if it cannot be written."""
        async with self._engine.begin() as connection:
            await connection.execute(sa.delete(sessions).where(sessions.c.id == ""))

    async def add(
        self, session: Session, machine: Machine, max_sessions: int, actor: str, claim: Claim | None = None
    ) -> bool:
        """Write a new session with its machine. False if the agent has `max_sessions` live ones already.

        Args:
            actor: Who asked for it.
            claim: The key that stands for it from now on.

        Raises:
            AlreadyClaimed: the key stands for another session.
        """
        live = sa.select(sa.func.count()).where(sessions.c.agent == session.agent, sessions.c.state.in_(LIVE))
        try:
            async with self._engine.begin() as connection:
                if claim is not None:
                    await _stake(connection, claim, session.created_at)
                if (await connection.scalar(live) or 0) >= max_sessions:
                    await connection.rollback()
                    return False
                await connection.execute(sa.insert(machines).values(**_values(machine)))
                await connection.execute(sa.insert(sessions).values(**_values(session)))
                await _note(connection, session.id, [timeline.asked(session, actor)])
        except IntegrityError:
            # PostgreSQL says so late, when another replica has committed the same key meanwhile.
            if claim is None or (standing := await self.claim(claim.id, session.created_at)) is None:
                raise
            raise AlreadyClaimed(claim, standing) from None
        return True

    async def claim(self, claim_id: str, now: float) -> Claim | None:
        """The session that a key stands for, unless its time is up."""
        async with self._reading.connect() as connection:
            return await _claim(connection, claim_id, now)

    async def delete_expired_claims(self, now: float, limit: int) -> int:
        """Delete keys whose time is up, at most `limit`; gives how many."""
        expired = sa.select(claims.c.id).where(claims.c.expires_at <= now).limit(limit)
        async with self._engine.begin() as connection:
            deleted = await connection.execute(
                sa.delete(claims).where(claims.c.id.in_(expired.scalar_subquery()))
            )
        return deleted.rowcount

    async def session(self, session_id: str) -> Session | None:
        return await self._one(Session, sa.select(sessions).where(sessions.c.id == session_id))

    async def session_of_machine(self, machine_id: str) -> Session | None:
        return await self._one(Session, sa.select(sessions).where(sessions.c.machine_id == machine_id))

    async def machine(self, machine_id: str) -> Machine | None:
        return await self._one(Machine, sa.select(machines).where(machines.c.id == machine_id))

    async def live_sessions(self) -> Sequence[Session]:
        query = sa.select(sessions).where(sessions.c.state.in_(LIVE)).order_by(sessions.c.created_at)
        return await self._many(Session, query)

    async def counts(self) -> Counts:
        """How many sessions and machines are live."""
        async with self._reading.connect() as connection:
            sessions_ = await connection.execute(counts.live_sessions())
            machines_ = await connection.execute(counts.live_machines())
            return Counts(
                {(agent, state): number for agent, state, number in sessions_},
                {(placement, state): number for placement, state, number in machines_},
            )

    async def list_sessions(
        self, wanted: Filter, behind: Cursor | None, limit: int, offset: int = 0
    ) -> Sequence[Session]:
        """A page of sessions, newest first."""
        return await self._many(Session, lists.page(wanted, behind, limit, offset))

    async def count_sessions(self, wanted: Filter, at_most: int) -> int:
        """How many there are, or `at_most` if there are more: counting all of them would take ever longer."""
        async with self._reading.connect() as connection:
            return min(await connection.scalar(lists.count(wanted, at_most)) or 0, at_most)

    async def live_machines(self) -> Sequence[Machine]:
        """Every machine that is not known to be gone."""
        query = sa.select(machines).where(machines.c.state != MachineState.gone)
        return await self._many(Machine, query)

    async def update_session(
        self, session_id: str, change: Callable[[Session], Session], cause: Cause
    ) -> tuple[Session, Session] | None:
        """Apply a change of the lifecycle. Gives the session before and after, or None if there is none."""
        async with self._engine.begin() as connection:
            updated = await _update(connection, Session, sessions, session_id, change)
            if updated is not None:
                await _note(connection, session_id, timeline.changed(*updated, cause))
        return updated

    async def update_machine(
        self, machine_id: str, change: Callable[[Machine], Machine], cause: Cause
    ) -> tuple[Machine, Machine] | None:
        async with self._engine.begin() as connection:
            # The session's row is locked first, as every writer of its timeline does: events have one order.
            query = sa.select(sessions).where(sessions.c.machine_id == machine_id).with_for_update()
            session = await _fetch(connection, Session, query)
            updated = await _update(connection, Machine, machines, machine_id, change)
            if updated is not None and session is not None:
                new = timeline.machine_changed(*updated, session, cause)
                await _note(connection, session.id, new)
        return updated

    async def events(self, session_id: str, after: int = 0) -> Sequence[Event]:
        """A session's timeline from the event after that number on, oldest first."""
        query = sa.select(events).where(events.c.session_id == session_id, events.c.number > after)
        return await self._many(Event, query.order_by(events.c.number))

    async def _one(self, kind: type[Row], query: sa.Select[Any]) -> Row | None:
        async with self._reading.connect() as connection:
            return await _fetch(connection, kind, query)

    async def _many(self, kind: type[Record], query: sa.Select[Any]) -> list[Record]:
        async with self._reading.connect() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_record(kind, row) for row in rows]


async def _fetch(connection: AsyncConnection, kind: type[Row], query: sa.Select[Any]) -> Row | None:
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else _record(kind, row)


async def _update(
    connection: AsyncConnection, kind: type[Row], table: sa.Table, key: str, change: Callable[[Row], Row]
) -> tuple[Row, Row] | None:
    before = await _fetch(connection, kind, sa.select(table).where(table.c.id == key).with_for_update())
    if before is None:
        return None
    after = change(before)
    changed = {name: value for name, value in _values(after).items() if value != getattr(before, name)}
    if changed:
        await connection.execute(sa.update(table).where(table.c.id == key).values(**changed))
    return before, after


async def _claim(connection: AsyncConnection, claim_id: str, now: float) -> Claim | None:
    query = sa.select(claims).where(claims.c.id == claim_id, claims.c.expires_at > now)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Claim(**row)


async def _stake(connection: AsyncConnection, claim: Claim, now: float) -> None:
    """Write a key's claim in the place of one whose time is up."""
    if (standing := await _claim(connection, claim.id, now)) is not None:
        raise AlreadyClaimed(claim, standing)
    await connection.execute(sa.delete(claims).where(claims.c.id == claim.id, claims.c.expires_at <= now))
    await connection.execute(sa.insert(claims).values(**asdict(claim)))


async def _note(connection: AsyncConnection, session_id: str, new: Sequence[Event]) -> None:
    """Write events at the end of a session's timeline, whose session is locked by this transaction."""
    last = sa.select(sa.func.coalesce(sa.func.max(events.c.number), 0)).where(
        events.c.session_id == session_id
    )
    for event_ in new:
        values = asdict(event_) | {"session_id": session_id, "number": last.scalar_subquery() + 1}
        await connection.execute(sa.insert(events).values(**values))


def _record(kind: type[Record], row: Any) -> Record:
    values = {field.name: row[field.name] for field in fields(kind)}
    states: dict[type, type] = {Session: SessionState, Machine: MachineState, Event: SessionState}
    values["state"] = states[kind](values["state"])
    return kind(**values)


def _values(record: Session | Machine) -> dict[str, Any]:
    return asdict(record)


def _engine(url: str | sa.URL) -> AsyncEngine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    engine = create_async_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    # The driver's own transaction control begins late and without the write lock: ours replaces it.
    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine
