"""The line between a dispatcher and its database: it breaks, and others act between two reads.

SQLite's driver, with PostgreSQL's weather. A read's statements are transactions of their own, each at its own
moment. A connection may turn out to be dead, and the answer to a commit may not come through.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import sqlalchemy as sa
from greenlet import getcurrent, greenlet
from sqlalchemy import event

T = TypeVar("T")

CONNECTIONS = 100
"""More than one dispatcher needs at a time: who waits for one would stop the simulation's only thread."""

BROKEN = "Cannot operate on a closed database."
"""What SQLAlchemy takes for the loss of a connection, of SQLite's errors."""


class Access(Generic[T]):
    """A dispatcher's work at the database in one go: a transaction, or several reads.

    Args:
        dies_at: The statement, from 0, that finds its connection dead. Once: the next connection is fine.
        commit_is_lost: A commit is kept, and its answer lost with the connection. Once, too.
    """

    current: ClassVar[Access[Any] | None] = None
    """Of the one that runs just now."""

    def __init__(
        self, work: Callable[[], T], *, writes: bool, dies_at: int | None, commit_is_lost: bool
    ) -> None:
        self.connected = False
        self.broke = False
        self.result: T | None = None
        self.error: Exception | None = None
        self._work = work
        self._writes = writes
        self._dies_at = dies_at
        self._commit_is_lost = commit_is_lost
        self._statements = 0
        self._thread = greenlet(self._run)

    def go_on(self) -> bool:
        """Run up to the next pause; whether it has ended."""
        Access.current = self
        try:
            self._thread.switch()
        finally:
            Access.current = None
        return self._thread.dead

    def abandon(self) -> None:
        """Nobody goes on with it: what it has open is closed."""
        self._thread.throw()

    def statement(self) -> None:
        """Before each of its statements.

        Raises:
            sqlite3.ProgrammingError: its connection is dead.
        """
        if not self.connected:
            return
        number = self._statements
        self._statements += 1
        if number == self._dies_at:
            self.connected, self.broke = False, True
            raise sqlite3.ProgrammingError(BROKEN)
        if number > 0 and not self._writes:
            parent = getcurrent().parent
            assert parent is not None
            parent.switch()

    def committed(self) -> None:
        """After each commit.

        Raises:
            sqlite3.ProgrammingError: its answer is lost.
        """
        if self._writes and self._commit_is_lost:
            self._commit_is_lost = self.connected = False
            self.broke = True
            raise sqlite3.ProgrammingError(BROKEN)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # noqa: BLE001 - who asked gets it
            self.error = error


class _Cursor(sqlite3.Cursor):
    def execute(self, sql: str, *given: Any) -> Any:
        # What SQLite is told of the connection itself is no statement of the line's.
        if Access.current is not None and not sql.startswith("PRAGMA"):
            Access.current.statement()
        return super().execute(sql, *given)


class _Connection(sqlite3.Connection):
    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def commit(self) -> None:
        super().commit()
        if Access.current is not None:
            Access.current.committed()


def engine(create: Callable[..., sa.Engine], url: sa.URL, **arguments: Any) -> sa.Engine:
    """An engine over such a line, made by `create`, which is SQLAlchemy's own."""
    connect = {**arguments["connect_args"], "factory": _Connection}
    made = create(url, **{**arguments, "pool_size": CONNECTIONS, "connect_args": connect})

    # Once the pool has given one; what it asks of a new connection itself is nobody's statement.
    @event.listens_for(made, "engine_connect")
    def _connected(_: sa.Connection) -> None:
        if Access.current is not None:
            Access.current.connected = True

    return made
