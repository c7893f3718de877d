"""Records to rows and back, and the statements that every transaction is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import sqlalchemy as sa

from dispatcher.machines.provider import MachineState
from dispatcher.sessions.lifecycle import Machine, Session, SessionState
from dispatcher.sessions.timeline import Event
from dispatcher.store.tables import events

Row = TypeVar("Row", Session, Machine)
Record = TypeVar("Record", Session, Machine, Event)

FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind)) for kind in (Session, Machine, Event)
}
STATES: dict[type, type] = {Session: SessionState, Machine: MachineState, Event: SessionState}


def record(kind: type[Record], row: Any) -> Record:
    values = {name: row[name] for name in FIELDS[kind]}
    values["state"] = STATES[kind](values["state"])
    return kind(**values)


def values(of: Session | Machine) -> dict[str, Any]:
    return {name: getattr(of, name) for name in FIELDS[type(of)]}


def one(connection: sa.Connection, kind: type[Row], query: sa.Select[Any]) -> Row | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else record(kind, row)


def many(connection: sa.Connection, kind: type[Record], query: sa.Select[Any]) -> list[Record]:
    return [record(kind, row) for row in connection.execute(query).mappings()]


def change(
    connection: sa.Connection, kind: type[Row], table: sa.Table, key: str, change: Callable[[Row], Row]
) -> tuple[Row, Row] | None:
    """Lock a row, apply a change of the lifecycle to it, and write what differs."""
    before = one(connection, kind, sa.select(table).where(table.c.id == key).with_for_update())
    if before is None:
        return None
    after = change(before)
    changed = {name: value for name, value in values(after).items() if value != getattr(before, name)}
    if changed:
        connection.execute(sa.update(table).where(table.c.id == key).values(**changed))
    return before, after


def note(connection: sa.Connection, session_id: str, new: Sequence[Event]) -> None:
    """Write events at the end of a session's timeline, whose session is locked by this transaction."""
    if not new:
        return
    last = sa.select(sa.func.coalesce(sa.func.max(events.c.number), 0)).where(
        events.c.session_id == session_id
    )
    number = connection.scalar(last) or 0
    rows = [
        asdict(event) | {"session_id": session_id, "number": number + i} for i, event in enumerate(new, 1)
    ]
    connection.execute(sa.insert(events), rows)
