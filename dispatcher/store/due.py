"""What the reaper looks at: of ten thousand machines that talk, none. The database passes them over."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from dispatcher.machines.provider import MachineState
from dispatcher.sessions.lifecycle import LIVE, OVER, Machine, Session
from dispatcher.store import lists, rows
from dispatcher.store.tables import machines, sessions

# As a list of what they may be, an index serves it.
_NOT_GONE = machines.c.state.in_([state for state in MachineState if state is not MachineState.gone])
_THEIRS = sessions.c.machine_id == machines.c.id

# Of one table: to look up every machine's row as well takes three times as long, on the core of the starts.
_STARTED = sa.select(sessions.c.machine_id).where(
    sessions.c.state.in_(LIVE), sessions.c.started_at.is_not(None)
)

_ABOUT = sa.or_(
    sessions.c.id.is_(None),
    sessions.c.state.in_(OVER),
    sessions.c.due_at.is_(None),
    sessions.c.due_at < sa.bindparam("now"),
    # Its launcher may have died.
    machines.c.state == MachineState.requested,
    sessions.c.room_state == "wanted",
    machines.c.id.in_(sa.bindparam("others", expanding=True)),
)
_COLUMNS = [
    table.c[name] for kind, table in ((Machine, machines), (Session, sessions)) for name in rows.FIELDS[kind]
]
_DUE = sa.select(*_COLUMNS).select_from(machines.outerjoin(sessions, _THEIRS)).where(_NOT_GONE, _ABOUT)
_OF_MACHINE = len(rows.FIELDS[Machine])
_LIVE = (
    sa.select(*_COLUMNS[:_OF_MACHINE], sessions.c.started_at)
    .select_from(machines.outerjoin(sessions, _THEIRS))
    .where(_NOT_GONE)
)


def live(connection: sa.Connection) -> list[tuple[Machine, float | None]]:
    """Every machine that is not known to be gone, and when its session says that it started.

    Of the sessions nothing else: their bodies may have a megabyte each.
    """
    return [(rows.record(Machine, row[:_OF_MACHINE]), row[_OF_MACHINE]) for row in connection.execute(_LIVE)]


def started(connection: sa.Connection) -> Sequence[str]:
    """The ids of the machines of all live sessions that have started."""
    return list(connection.scalars(_STARTED))


def due(
    connection: sa.Connection, now: float, others: Collection[str]
) -> list[tuple[Machine, Session | None]]:
    """Machines that are not known to be gone, with their sessions: a deadline passed, the session is over,
    they or their rooms are being asked for, or they are among these others."""
    # In one statement: of a session that moves on between two, the machine alone would be found, and ended as
    # one that has none.
    found = connection.execute(_DUE, {"now": now, "others": list(others)})
    return [(rows.record(Machine, row[:_OF_MACHINE]), _session(row[_OF_MACHINE:])) for row in found]


def rooms(connection: sa.Connection, now: float, limit: int) -> list[Session]:
    """Sessions that are over and whose rooms have to be deleted, longest due first, as lists have them."""
    query = lists.LISTED.where(sessions.c.room_due_at <= now)
    return rows.many(connection, Session, query.order_by(sessions.c.room_due_at).limit(limit))


def _session(row: Sequence[Any]) -> Session | None:
    return rows.record(Session, row) if row[0] is not None else None
