"""Admission in the store: counting slots, and handing them on, exactly.

Locks are taken in one order everywhere: a session that exists, then the deployment's row of `loads`, then
the agent's. Whoever holds those and wants a waiting session skips the locked ones: these are just ending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from dispatcher.domain import transitions
from dispatcher.domain.admission import Limits, Load, has_slot, is_admitted, is_full
from dispatcher.domain.model import Machine, Session, SessionState
from dispatcher.domain.timeline import Event
from dispatcher.store import rows
from dispatcher.store.rows import Statement
from dispatcher.store.tables import events, loads, machines, sessions

DEPLOYMENT = ""
"""The row of `loads` that counts nothing: it is locked, and written to see whether writes work."""


_AGENTS = sa.update(loads).where(loads.c.agent == sa.bindparam(rows.KEY))
ADD = Statement(
    _AGENTS.values(
        live=loads.c.live + sa.bindparam("more_live"), queued=loads.c.queued + sa.bindparam("more_queued")
    )
)
_TAKE_SLOT = _AGENTS.where(loads.c.live < sa.bindparam("most"), loads.c.queued == 0).values(
    live=loads.c.live + 1
)
"""Take a slot where only the agent's own limit counts and nobody waits: most of the time."""
TAKE_SLOT = Statement(_TAKE_SLOT)
TAKEN_SLOT = _TAKE_SLOT.returning(loads.c.agent)
"""The same, as part of a larger statement."""
WAITING = Statement(sa.select(loads.c.agent).where(loads.c.queued > 0))
_OVERDUE = sessions.c.line_until <= sa.bindparam("now")
OVERDUE = Statement(sa.select(sessions.c.agent).where(_OVERDUE).limit(1))

MOST_OVERDUE = 100
"""Limit on the slots that are freed in one transaction."""


class Full(Exception):
    """There is no slot, and no place in the queue. The transaction must be undone."""


def enter(connection: sa.Connection, session: Session, limits: Limits) -> bool:
    """Count a new session in. Return True if it has a slot; else it waits.

    Raises:
        Full: neither.
    """
    if limits.deployment is None and TAKE_SLOT.run(connection, of_slot(session.agent, limits)):
        return True
    known = lock_loads(connection, session.agent, limits)
    admitted = is_admitted(session.agent, known, limits)
    if not admitted and is_full(session.agent, session.queue_seconds, known, limits):
        raise Full
    _add(connection, session.agent, live=int(admitted), queued=int(not admitted))
    return admitted


def of_slot(agent: str, limits: Limits) -> dict[str, Any]:
    """Return the parameters of a statement that takes a slot."""
    return {rows.KEY: agent, "most": limits.agents.get(agent, 0)}


def moved(connection: sa.Connection, before: Session, after: Session) -> None:
    """Count a session that changed where it belongs now."""
    live = int(after.has_slot) - int(before.has_slot)
    queued = int(after.state is SessionState.queued) - int(before.state is SessionState.queued)
    if live or queued:
        _add(connection, after.agent, live=live, queued=queued)


def overdue(connection: sa.Connection, now: float) -> str | None:
    """Return an agent with a slot whose grace is over, or None."""
    found = OVERDUE.rows(connection, {"now": now})
    return found[0][0] if found else None


def free_overdue(connection: sa.Connection, agent: str, now: float) -> int:
    """Free the agent's slots whose grace is over, and return how many.

    One agent in a transaction: rows of `loads` are locked in one order.
    """
    query = sa.select(sessions.c.id).where(sessions.c.agent == agent, _OVERDUE).limit(MOST_OVERDUE)
    found = connection.scalars(query.with_for_update(skip_locked=True), {"now": now}).all()
    for session_id in found:
        free(connection, session_id)
    return len(found)


def free(connection: sa.Connection, session_id: str) -> None:
    """Free the slot of a session that is over, and that this transaction has locked."""
    updated = rows.change(connection, Session, session_id, transitions.slot_free)
    if updated is not None:
        moved(connection, *updated)


def next_queued(connection: sa.Connection, limits: Limits, now: float) -> Session | None:
    """The session that gets a slot now, locked; None if there is no slot or nobody waits for one."""
    if not WAITING.rows(connection, {}):
        return None
    known = lock_loads(connection, None, limits)
    agents = [name for name, load in known.items() if load.queued > 0 and has_slot(name, known, limits)]
    if not agents:
        return None
    patient = sessions.c.created_at + sessions.c.queue_seconds >= now
    query = (
        rows.select(Session)
        .where(sessions.c.state == SessionState.queued, sessions.c.agent.in_(agents), patient)
        .order_by(sessions.c.created_at, sessions.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = rows.many(connection, Session, query)
    return found[0] if found else None


def write_one(connection: sa.Connection) -> None:
    """Change the row that counts nothing. A value that stays as it is would not be written by SQLite."""
    _ensure(connection, DEPLOYMENT)
    other = sa.update(loads).where(loads.c.agent == DEPLOYMENT).values(live=1 - loads.c.live)
    connection.execute(other)


def place(connection: sa.Connection, session: Session) -> int:
    """A waiting session's place in its agent's queue; 1 is next."""
    key = sa.tuple_(sessions.c.created_at, sessions.c.id)
    ahead = sa.select(sa.func.count()).where(
        sessions.c.agent == session.agent,
        sessions.c.state == SessionState.queued,
        key < sa.tuple_(sa.literal(session.created_at), sa.literal(session.id)),
    )
    return (connection.scalar(ahead) or 0) + 1


def counted(connection: sa.Connection) -> dict[str, Load]:
    """Agent → its load."""
    query = sa.select(loads).where(loads.c.agent != DEPLOYMENT)
    return {row["agent"]: Load(row["live"], row["queued"]) for row in connection.execute(query).mappings()}


def lock_loads(connection: sa.Connection, agent: str | None, limits: Limits) -> dict[str, Load]:
    """Lock what admission of the agent depends on (all agents, if none is named), and read it."""
    wanted = [agent] if agent is not None else sorted(limits.agents)
    if limits.deployment is not None:
        _ensure(connection, DEPLOYMENT)
        connection.execute(sa.select(loads).where(loads.c.agent == DEPLOYMENT).with_for_update())
    for name in wanted:
        _ensure(connection, name)
    locked = sa.select(loads.c.agent).where(loads.c.agent.in_(wanted)).order_by(loads.c.agent)
    connection.execute(locked.with_for_update())
    if limits.deployment is not None or agent is None:
        return counted(connection)
    query = sa.select(loads).where(loads.c.agent == agent)
    row = connection.execute(query).mappings().one()
    return {agent: Load(row["live"], row["queued"])}


def lock_agent(connection: sa.Connection, agent: str) -> None:
    """Lock the agent's row: nobody else admits a session of it, or adds to its reserve, meanwhile."""
    _ensure(connection, agent)
    connection.execute(sa.select(loads).where(loads.c.agent == agent).with_for_update())


def _ensure(connection: sa.Connection, agent: str) -> None:
    if connection.scalar(sa.select(sa.exists().where(loads.c.agent == agent))):
        return
    rows.add_unless_there(connection, loads, agent=agent, live=0, queued=0)


def _add(connection: sa.Connection, agent: str, live: int, queued: int) -> None:
    ADD.run(connection, {rows.KEY: agent, "more_live": live, "more_queued": queued})


# A start in one statement, on PostgreSQL, where only the agent's own limit counts and nobody waits.
#
# The row of `loads`, which all starts of an agent change, is locked from there to the commit: one after the
# other, the five statements of a start would hold it for five round trips and as many switches of threads.
# SQLite, where none of this takes time, does not know such statements.
def enter_at_once(
    connection: sa.Connection, session: Session, machine: Machine, new: Sequence[Event], limits: Limits
) -> bool:
    """Write a session that is admitted, if there is a slot, with its machine and its first events.

    False where it takes more to know whether there is one; then nothing is written.
    """
    if connection.dialect.name != "postgresql" or limits.deployment is not None:
        return False
    values = of_slot(session.agent, limits)
    values |= _named(sessions, rows.values(session)) | _named(machines, rows.values(machine))
    for number, event in enumerate(new, 1):
        values |= _named(events, rows.event_values(event, session.id) | {"number": number}, number)
    return bool(_statement(len(new)).rows(connection, values))


@cache
def _statement(number_of_events: int) -> Statement:
    slot = TAKEN_SLOT.cte("slot")
    parts = [_insert(sessions, slot), _insert(machines, slot)]
    parts += [_insert(events, slot, number) for number in range(1, number_of_events + 1)]
    return Statement(sa.select(slot.c.agent).add_cte(*parts))


def _insert(table: sa.Table, slot: sa.CTE, number: int = 1) -> sa.CTE:
    """One row, if the slot was taken."""
    given = [sa.bindparam(_name(table, column.name, number), type_=column.type) for column in table.c]
    insert = sa.insert(table).from_select(table.c.keys(), sa.select(*given).select_from(slot))
    return insert.cte(f"new_{table.name}_{number}")


def _named(table: sa.Table, values: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    return {_name(table, name, number): value for name, value in values.items()}


def _name(table: sa.Table, column: str, number: int) -> str:
    return f"{table.name}_{number}_{column}"
