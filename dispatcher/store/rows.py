"""Records to rows and back, and the statements that every transaction is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa

from dispatcher.domain import deadlines
from dispatcher.domain.model import Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import REPEATED, Event
from dispatcher.store.statements import Statement
from dispatcher.store.tables import events, machines, sessions

Row = TypeVar("Row", Session, Machine)
Record = TypeVar("Record", Session, Machine, Event)

KEY = "key_of_row"
"""The parameter of statements about one row; no column has its name."""

TABLES: dict[type, sa.Table] = {Session: sessions, Machine: machines, Event: events}
STATES: dict[type, type] = {Session: SessionState, Machine: MachineState, Event: SessionState}
FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in TABLES}
EVENT_FIELDS = tuple(name for name in FIELDS[Event] if name != "number")
STATE_AT = {kind: names.index("state") for kind, names in FIELDS.items()}


def select(kind: type[Session | Machine | Event]) -> sa.Select[Any]:
    """Select these records, as `one` and `many` read them."""
    return sa.select(*(TABLES[kind].c[name] for name in FIELDS[kind]))


MAX_EVENTS = 1000
"""Of a session. What a bot or its client can have happen again and again is not written beyond it."""

LAST_EVENT = " What is like this is not written any more: the session has too many events."

_ALL_EVENTS = 2**31 - 1


def _number_next() -> sa.Insert:
    """An event, with the number that comes after the last one of its session, unless it has too many."""
    names = ("session_id", *EVENT_FIELDS)
    given: dict[str, sa.ColumnElement[Any]] = {
        name: sa.bindparam(f"new_{name}", type_=events.c[name].type) for name in names
    }
    of_session = sa.select(sa.func.coalesce(sa.func.max(events.c.number), 0)).where(
        events.c.session_id == sa.bindparam("new_session_id")
    )
    last, most = of_session.scalar_subquery(), sa.bindparam("most", type_=sa.Integer)
    message = given["message"]
    given["message"] = sa.case((last + 1 == most, message.concat(LAST_EVENT)), else_=message)
    numbered = sa.select(*given.values(), last + 1).where(last < most)
    return sa.insert(events).from_select([*names, "number"], numbered)


INSERT = {kind: Statement(sa.insert(TABLES[kind])) for kind in (Session, Machine)}
INSERT_EVENT = Statement(_number_next())
_ONE = {kind: select(kind).where(TABLES[kind].c.id == sa.bindparam(KEY)) for kind in (Session, Machine)}
ONE = {kind: Statement(query) for kind, query in _ONE.items()}
LOCK = {kind: Statement(query.with_for_update()) for kind, query in _ONE.items()}
_OF_MACHINE = select(Session).where(sessions.c.machine_id == sa.bindparam(KEY))
OF_MACHINE = Statement(_OF_MACHINE)
LOCK_OF_MACHINE = Statement(_OF_MACHINE.with_for_update())
MACHINE_OF = Statement(select(Machine).where(machines.c.session_id == sa.bindparam(KEY)))


def one(connection: sa.Connection, kind: type[Record], query: Statement, key: str) -> Record | None:
    found = query.rows(connection, {KEY: key})
    return record(kind, found[0]) if found else None


def many(connection: sa.Connection, kind: type[Record], query: sa.Select[Any]) -> list[Record]:
    return [record(kind, row) for row in connection.execute(query)]


def add(connection: sa.Connection, new: Session | Machine) -> None:
    INSERT[type(new)].run(connection, values(new))


def change(
    connection: sa.Connection, kind: type[Row], key: str, change: Callable[[Row], Row]
) -> tuple[Row, Row] | None:
    """Lock a row, apply a change of the lifecycle to it, and write what differs."""
    before = one(connection, kind, LOCK[kind], key)
    if before is None:
        return None
    after = change(before)
    if after is before:
        return before, after
    known = values(before)
    changed = {name: value for name, value in values(after).items() if value != known[name]}
    if changed:
        _update(kind, tuple(changed)).run(connection, {KEY: key, **changed})
    return before, after


def add_unless_there(connection: sa.Connection, table: sa.Table, **values: Any) -> None:
    """Insert a row, unless one with its key is there, also one that somebody else inserts meanwhile."""
    # Only the database's own dialect is imported: PostgreSQL's takes 50 ms of a start.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    connection.execute(insert(table).values(**values).on_conflict_do_nothing())


def note(connection: sa.Connection, session_id: str, new: Iterable[Event]) -> None:
    """Write events at the end of a session's timeline, whose session is locked by this transaction."""
    for event in new:
        given = {f"new_{name}": value for name, value in event_values(event, session_id).items()}
        given["most"] = MAX_EVENTS if event.kind in REPEATED else _ALL_EVENTS
        INSERT_EVENT.run(connection, given)


@cache
def _update(kind: type[Session | Machine], names: tuple[str, ...]) -> Statement:
    """Sets these columns of a row. There are as many as there are kinds of changes in the lifecycle."""
    return Statement(sa.update(TABLES[kind]).where(TABLES[kind].c.id == sa.bindparam(KEY)), names)


def record(kind: type[Record], row: Sequence[Any]) -> Record:
    found = list(row)
    found[STATE_AT[kind]] = STATES[kind](found[STATE_AT[kind]])
    return kind(*found)


def values(of: Session | Machine) -> dict[str, Any]:
    """Column → value."""
    found = {name: getattr(of, name) for name in FIELDS[type(of)]}
    if isinstance(of, Session):
        due = deadlines.deadline(of)
        found["due_at"] = due[0] if due is not None else None
        found["room_due_at"] = deadlines.room_due(of)
    return found


def event_values(event: Event, session_id: str) -> dict[str, Any]:
    """Column → value, but for the number."""
    return {"session_id": session_id, **{name: getattr(event, name) for name in EVENT_FIELDS}}
