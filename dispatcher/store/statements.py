"""Statements that run with every start, report and end of a session, on the driver's own cursor.

SQLAlchemy writes their SQL, once for each dialect, and knows how each type travels. To run one through
`Connection.execute` takes it some 130 µs more of the processor, with what is around it several times what
SQLite itself takes; here that is 20 µs. They belong to the connection's transaction like all others, and
what the driver raises becomes the same errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPICursor, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

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
        """All that a SELECT finds, in Python's types."""
        form = self._form(connection.dialect)
        cursor = _execute(connection, form.sql, form.parameters(values))
        try:
            found = cursor.fetchall()
            return [form.read(row, cursor.description) for row in found]
        finally:
            cursor.close()

    def run(self, connection: sa.Connection, values: Values) -> int:
        """How many rows were written."""
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
