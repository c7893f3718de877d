"""The reserve in the store: its machines, their claims, and the arrivals that it learns from.

Locks are taken in the order of `capacity`: a session, then an agent's row of `loads`, then machines. An idle
machine that another start holds locked is skipped (`FOR UPDATE SKIP LOCKED`); SQLite has one writer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dispatcher.domain import reserve, timeline
from dispatcher.domain.model import Machine, MachineState, Session
from dispatcher.domain.timeline import Cause
from dispatcher.store import capacity, rows
from dispatcher.store.database import Database
from dispatcher.store.tables import arrivals, machines

_NOT_GONE = machines.c.gone_at.is_(None)
_ALONE = (machines.c.agent.is_not(None), machines.c.session_id.is_(None), _NOT_GONE)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A session and the machine of the reserve that it got; no machine, and why, if none waited."""

    session: Session
    machine: Machine | None = None
    missed: str = ""
    """A sentence."""


class Reserves:
    """Reads and writes of the reserve."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def waiting(self) -> Sequence[Machine]:
        """Return all machines that wait for a session, or start for it."""
        query = rows.select(Machine).where(*_ALONE, machines.c.state.in_(reserve.WAITING))
        return await self._database.read(lambda connection: rows.many(connection, Machine, query))

    async def add(self, machine: Machine, most: int) -> bool:
        """Write a machine that is to be asked for, unless its agent has `most` that wait or start.

        The agent's row of `loads` is locked: two keepers that take each other for dead add no more either.
        """

        def write(connection: sa.Connection) -> bool:
            capacity.lock_agent(connection, machine.agent or "")
            count = sa.select(sa.func.count()).where(
                *_ALONE, machines.c.agent == machine.agent, machines.c.state.in_(reserve.WAITING)
            )
            if (connection.scalar(count) or 0) >= most:
                return False
            rows.add(connection, machine)
            return True

        return await self._database.write(write)

    async def claim(self, session_id: str, replica: str, revision: str, cause: Cause) -> Claimed | None:
        """Give the session the idle machine of its agent and this revision that has waited longest.

        The session's own machine, for which nobody was asked, is deleted. None if the session needs none from
        here: it is over, has started, or another replica goes on with it. Idempotent.
        """

        def write(connection: sa.Connection) -> Claimed | None:
            session = rows.one(connection, Session, rows.LOCK[Session], session_id)
            own = rows.one(connection, Machine, rows.MACHINE_OF, session_id)
            if session is None or own is None:
                return None
            if reserve.is_claimed(session, own, replica):
                return Claimed(session, own)
            if not reserve.may_claim(session, own, replica):
                return None
            idle = rows.many(connection, Machine, _idle(session.agent, revision))
            if not idle:
                why = _why_missed(connection, session.agent, revision)
                rows.note(connection, session.id, [timeline.cold_start(why, session, cause)])
                return Claimed(session, missed=why)
            connection.execute(sa.delete(machines).where(machines.c.id == own.id))
            after, taken = reserve.claimed(session, idle[0], own)
            rows.change(connection, Machine, taken.id, lambda _: taken)
            rows.change(connection, Session, session.id, lambda _: after)
            rows.note(connection, session.id, [timeline.from_reserve(idle[0], after, cause)])
            return Claimed(after, taken)

        return await self._database.write(write, quick=True)

    async def fall_back(
        self, session_id: str, machine_id: str, own: Callable[[Session], Machine], why: str, cause: Cause
    ) -> tuple[Session, Machine] | None:
        """Give the session a machine of its own, if the claimed one has not acknowledged it.

        Returns:
            Both as they were written; None if the machine serves the session, or it is over.
        """

        def write(connection: sa.Connection) -> tuple[Session, Machine] | None:
            session = rows.one(connection, Session, rows.LOCK[Session], session_id)
            machine = rows.one(connection, Machine, rows.LOCK[Machine], machine_id)
            if session is None or machine is None:
                return None
            new = own(session)
            fallen = reserve.fallen_back(session, machine, new)
            if fallen is None:
                return None
            after, retired = fallen
            rows.change(connection, Machine, machine_id, lambda _: retired)
            rows.add(connection, new)
            rows.change(connection, Session, session_id, lambda _: after)
            rows.note(connection, session_id, [timeline.cold_start(why, after, cause)])
            return after, new

        return await self._database.write(write, quick=True)

    async def count(self, calls: Mapping[tuple[str, int], int]) -> None:
        """Add calls to the counts of slots: (agent, first second of the slot) → calls."""

        def write(connection: sa.Connection) -> None:
            for (agent, slot), more in sorted(calls.items()):
                where = (arrivals.c.agent == agent, arrivals.c.slot == slot)
                rows.add_unless_there(connection, arrivals, agent=agent, slot=slot, calls=0)
                connection.execute(sa.update(arrivals).where(*where).values(calls=arrivals.c.calls + more))

        await self._database.write(write)

    async def history(self, agent: str, since: float = 0.0) -> dict[int, int]:
        """Return the agent's counts from that moment on: first second of a slot → calls."""
        query = sa.select(arrivals.c.slot, arrivals.c.calls).where(
            arrivals.c.agent == agent, arrivals.c.slot >= since
        )

        def read(connection: sa.Connection) -> dict[int, int]:
            return {row.slot: row.calls for row in connection.execute(query)}

        return await self._database.read(read)

    async def delete_old(self, arrivals_before: float, machines_before: float, limit: int) -> int:
        """Delete counts, and machines of the reserve that are gone and served nobody; gives how many."""

        def write(connection: sa.Connection) -> int:
            counts = sa.delete(arrivals).where(arrivals.c.slot < arrivals_before)
            old = (
                sa.select(machines.c.id)
                .where(
                    machines.c.agent.is_not(None),
                    machines.c.state == MachineState.gone,
                    machines.c.session_id.is_(None),
                    machines.c.gone_at < machines_before,
                )
                .limit(limit)
            )
            gone = sa.delete(machines).where(machines.c.id.in_(old.scalar_subquery()))
            connection.execute(counts)
            return connection.execute(gone).rowcount

        return await self._database.write(write)


def _idle(agent: str, revision: str) -> sa.Select[tuple[object, ...]]:
    return (
        rows.select(Machine)
        .where(
            *_ALONE,
            machines.c.agent == agent,
            machines.c.state == MachineState.idle,
            machines.c.revision == revision,
        )
        .order_by(machines.c.created_at, machines.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def _why_missed(connection: sa.Connection, agent: str, revision: str) -> str:
    query = sa.select(machines.c.state, machines.c.revision).where(*_ALONE, machines.c.agent == agent)
    found = connection.execute(query).all()
    coming = sum(state in (MachineState.requested, MachineState.started) for state, _ in found)
    old = sum(state == MachineState.idle and of != revision for state, of in found)
    if old:
        return f"no machine of this revision waits in the reserve ({old} of another one, {coming} start)."
    return f"no machine waits in the reserve ({coming} start)."
