"""What the reaper looks at: of ten thousand machines that talk, none. The database passes them over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from dispatcher.machines.provider import MachineState
from dispatcher.sessions.lifecycle import LIVE, OVER, Machine, Session
from dispatcher.store import rows
from dispatcher.store.tables import machines, sessions

# As a list of what they may be, an index serves it.
_NOT_GONE = machines.c.state.in_([state for state in MachineState if state is not MachineState.gone])
_THEIRS = sessions.c.machine_id == machines.c.id

_STARTED = (
    sa.select(machines.c.id)
    .join(sessions, _THEIRS)
    .where(machines.c.state == MachineState.started, sessions.c.state.in_(LIVE))
)

_ABOUT = sa.or_(
    sessions.c.id.is_(None),
    sessions.c.state.in_(OVER),
    sessions.c.due_at.is_(None),
    sessions.c.due_at < sa.bindparam("now"),
    # Its launcher may have died.
    machines.c.state == MachineState.requested,
    machines.c.id.in_(sa.bindparam("others", expanding=True)),
)
_BOTH = machines.outerjoin(sessions, _THEIRS)
_DUE = rows.select(Machine).select_from(_BOTH).where(_NOT_GONE, _ABOUT)
_DUE_SESSIONS = rows.select(Session).select_from(_BOTH).where(_NOT_GONE, _ABOUT, sessions.c.id.is_not(None))


def started(connection: sa.Connection) -> Sequence[str]:
    """The ids of all machines that started and have a live session."""
    return list(connection.scalars(_STARTED))


def due(
    connection: sa.Connection, now: float, others: Collection[str]
) -> list[tuple[Machine, Session | None]]:
    """Machines that are not known to be gone, with their sessions: a deadline passed, the session is over,
    they are being asked for, or they are among these others."""
    values = {"now": now, "others": list(others)}
    # Machines first: a session that begins between the two queries belongs to none of them.
    found = [rows.record(Machine, row) for row in connection.execute(_DUE, values)]
    known = [rows.record(Session, row) for row in connection.execute(_DUE_SESSIONS, values)]
    of_machine = {session.machine_id: session for session in known}
    return [(machine, of_machine.get(machine.id)) for machine in found]
