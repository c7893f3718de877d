"""Records to rows and back, and the statements that every transaction is made of.

A `Statement` runs on the driver's own cursor. SQLAlchemy compiles its SQL once for each dialect, and converts
the values. `Connection.execute` takes some 130 µs more of the processor, several times what SQLite itself
takes; a cursor takes 20 µs. The statement belongs to the connection's transaction like any other, and the
driver's errors become SQLAlchemy's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from dispatcher.domain import deadlines
from dispatcher.domain.model import Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import REPEATED, Event
from dispatcher.store.tables import events, machines, sessions

Query = sa.Select[*tuple[Any, ...]] | sa.Insert | sa.Update
Convert = Callable[[Any], Any]
Values = Mapping[str, Any]


class Statement:
    """One statement, made once.

    Args:
        query: Without lists of values (`in_`): their SQL depends on how many there are.
        columns: What an INSERT or UPDATE that names no values sets; the parameters have the columns' names.
    """

    def __init__(
        self,
        query: Query,
        columns: Collection[str] | None = None,
    ) -> None:
        self._query = query
        self._columns = columns
        self._forms: dict[str, _Form] = {}

    def rows(self, connection: sa.Connection, values: Values) -> list[list[Any]]:
        """Return all rows of a SELECT, in Python's types."""
        form = self._form(connection.dialect)
        cursor = _execute(connection, form.sql, form.parameters(values))
        try:
            found = cursor.fetchall()
            return [form.read(row, cursor.description) for row in found]
        finally:
            cursor.close()

    def run(self, connection: sa.Connection, values: Values) -> int:
        """Return the number of rows that were written."""
        form = self._form(connection.dialect)
        cursor = _execute(connection, form.sql, form.parameters(values))
        count = cursor.rowcount
        cursor.close()
        return count

    def _form(self, dialect: Dialect) -> _Form:
        # Two threads may make it at once: both make the same.
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = _Form(self._query, self._columns, dialect)
        return form


def execute(connection: sa.Connection, sql: str) -> None:
    """Run SQL that is text already, and has no values."""
    _execute(connection, sql, ()).close()


class _Form:
    """A statement in a dialect's SQL."""

    def __init__(self, query: Query, columns: Collection[str] | None, dialect: Dialect) -> None:
        keys = None if columns is None else list(columns)
        compiled = query.compile(dialect=dialect, column_keys=keys)
        assert isinstance(compiled, SQLCompiler)  # noqa: S101 - for the type checker
        self.sql = str(compiled)
        self._dialect = dialect
        self._names = compiled.positiontup
        """None where the driver takes its parameters by name."""
        self._fixed = {name: bind.value for name, bind in compiled.binds.items() if not bind.required}
        writers = {name: _writer(bind.type, dialect) for name, bind in compiled.binds.items()}
        self._writers = {name: writer for name, writer in writers.items() if writer is not None}
        selected = query.selected_columns if isinstance(query, sa.Select) else ()
        self._types = [column.type for column in selected]
        self._readers: list[tuple[int, Convert]] | None = None

    def parameters(self, values: Values) -> Any:
        given = {**self._fixed, **values}
        for name, writer in self._writers.items():
            given[name] = writer(given[name])
        return given if self._names is None else [given[name] for name in self._names]

    def read(self, row: Sequence[Any], description: Any) -> list[Any]:
        if self._readers is None:
            # The driver's own word for a column's type is known with the first answer.
            readers = [
                (at, _reader(type_, self._dialect, description[at][1]))
                for at, type_ in enumerate(self._types)
            ]
            self._readers = [(at, reader) for at, reader in readers if reader is not None]
        values = list(row)
        for at, reader in self._readers:
            values[at] = reader(values[at])
        return values


def _writer(type_: TypeEngine[Any], dialect: Dialect) -> Convert | None:
    return type_.dialect_impl(dialect).bind_processor(dialect)


def _reader(type_: TypeEngine[Any], dialect: Dialect, driver_type: Any) -> Convert | None:
    return type_.dialect_impl(dialect).result_processor(dialect, driver_type)


def _execute(connection: sa.Connection, sql: str, parameters: Any) -> DBAPICursor:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql, parameters)
    except connection.dialect.loaded_dbapi.Error as error:
        _fail(connection, cursor, sql, error)
    return cursor


def _fail(connection: sa.Connection, cursor: DBAPICursor, sql: str, error: Exception) -> NoReturn:
    """Raise what SQLAlchemy would raise."""
    dialect, driver = connection.dialect, connection.connection.driver_connection
    lost = dialect.is_disconnect(error, driver, cursor)  # pyright: ignore[reportArgumentType] - it is one
    wrapped = DBAPIError.instance(
        sql,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=lost,
        dialect=dialect,
    )
    if not lost:
        cursor.close()
        raise wrapped from error
    # SQLAlchemy finds out with its own next statement, and drops all that the pool has kept for as long.
    with contextlib.suppress(DBAPIError):
        connection.exec_driver_sql("SELECT 1")
    raise wrapped from error


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
"""Limit for one session. An event that bots and clients can repeat at will is not written beyond it."""

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
    connection: sa.Connection,
    kind: type[Row],
    key: str,
    change: Callable[[Row], Row],
    lock: Statement | None = None,
) -> tuple[Row, Row] | None:
    """Lock a row, apply a change of the lifecycle to it, and write what differs.

    Args:
        lock: Finds and locks the row by this key; by default the key is its id.
    """
    before = one(connection, kind, lock or LOCK[kind], key)
    if before is None:
        return None
    after = change(before)
    if after is before:
        return before, after
    known = values(before)
    changed = {name: value for name, value in values(after).items() if value != known[name]}
    if changed:
        _update(kind, tuple(changed)).run(connection, {KEY: before.id, **changed})
    return before, after


def add_unless_there(connection: sa.Connection, table: sa.Table, **values: Any) -> bool:
    """Insert a row, unless one with its key is there, also one that somebody else inserts meanwhile.

    Returns:
        True if it was inserted.
    """
    # Only the database's own dialect is imported: PostgreSQL's takes 50 ms of a start.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert
    statement = insert(table).values(**values).on_conflict_do_nothing()
    # Without the option psycopg's count is lost.
    return connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount > 0


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
