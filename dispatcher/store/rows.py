"""Records to rows and back, and the statements that every transaction is made of.

The statements are made once and get their values as parameters: to make one takes SQLAlchemy several times as
long as to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from dispatcher.machines.provider import MachineState
from dispatcher.sessions import lifecycle
from dispatcher.sessions.lifecycle import Machine, Session, SessionState
from dispatcher.sessions.timeline import Event
from dispatcher.store.tables import events, machines, sessions

Row = TypeVar("Row", Session, Machine)
Record = TypeVar("Record", Session, Machine, Event)

KEY = "key_of_row"
"""The parameter of statements about one row; no column has its name."""

TABLES: dict[type, sa.Table] = {Session: sessions, Machine: machines, Event: events}
STATES: dict[type, type] = {Session: SessionState, Machine: MachineState, Event: SessionState}
FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in TABLES}
STATE_AT = {kind: names.index("state") for kind, names in FIELDS.items()}


def select(kind: type[Session | Machine | Event]) -> sa.Select[Any]:
    """Of these records; what `one` and `many` read."""
    return sa.select(*(TABLES[kind].c[name] for name in FIELDS[kind]))


INSERT = {kind: sa.insert(table) for kind, table in TABLES.items()}
ONE = {kind: select(kind).where(TABLES[kind].c.id == sa.bindparam(KEY)) for kind in (Session, Machine)}
LOCK = {kind: query.with_for_update() for kind, query in ONE.items()}
UPDATE = {
    kind: sa.update(TABLES[kind]).where(TABLES[kind].c.id == sa.bindparam(KEY)) for kind in (Session, Machine)
}
OF_MACHINE = select(Session).where(sessions.c.machine_id == sa.bindparam(KEY))
LOCK_OF_MACHINE = OF_MACHINE.with_for_update()
LAST_EVENT = sa.select(sa.func.max(events.c.number)).where(events.c.session_id == sa.bindparam(KEY))


def one(
    connection: sa.Connection, kind: type[Record], query: sa.Select[Any], key: str | None = None
) -> Record | None:
    row = connection.execute(query, {} if key is None else {KEY: key}).first()
    return None if row is None else record(kind, row)


def many(connection: sa.Connection, kind: type[Record], query: sa.Select[Any]) -> list[Record]:
    return [record(kind, row) for row in connection.execute(query)]


def add(connection: sa.Connection, new: Session | Machine) -> None:
    connection.execute(INSERT[type(new)], _values(new))


def change(
    connection: sa.Connection, kind: type[Row], key: str, change: Callable[[Row], Row]
) -> tuple[Row, Row] | None:
    """Lock a row, apply a change of the lifecycle to it, and write what differs."""
    before = one(connection, kind, LOCK[kind], key)
    if before is None:
        return None
    after = change(before)
    known = _values(before)
    changed = {name: value for name, value in _values(after).items() if value != known[name]}
    if changed:
        connection.execute(UPDATE[kind], {KEY: key, **changed})
    return before, after


def note(connection: sa.Connection, session_id: str, new: Sequence[Event], after: int | None = None) -> None:
    """Write events at the end of a session's timeline, whose session is locked by this transaction.

    Args:
        after: The number of the last one so far, where that is known.
    """
    if not new:
        return
    last = after if after is not None else connection.scalar(LAST_EVENT, {KEY: session_id}) or 0
    numbered = [asdict(event) | {"number": number} for number, event in enumerate(new, last + 1)]
    connection.execute(INSERT[Event], [{"session_id": session_id} | event for event in numbered])


def record(kind: type[Record], row: sa.Row[Any]) -> Record:
    values = list(row)
    values[STATE_AT[kind]] = STATES[kind](values[STATE_AT[kind]])
    return kind(*values)


def _values(of: Session | Machine) -> dict[str, Any]:
    values = {name: getattr(of, name) for name in FIELDS[type(of)]}
    if isinstance(of, Session):
        due = lifecycle.deadline(of)
        values["due_at"] = due[0] if due is not None else None
    return values
