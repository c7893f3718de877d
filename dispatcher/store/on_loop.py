"""Transactions on the event loop itself, where the database is SQLite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from dispatcher.store import engines, statements

T = TypeVar("T")


class OnLoop:
    """SQLite's connection that the event loop uses, and keeps. It waits for no lock, and copies no log.

    Its transactions are begun and ended here: to take a connection from the pool, have SQLAlchemy begin and
    give it back takes a fifth of the time of a short one.
    """

    def __init__(self, url: sa.URL) -> None:
        self._engine = engines.sqlite(url, connections=1, busy_timeout=0, checkpoints=False)
        # SQLAlchemy is not to begin any.
        self._reading = self._engine.execution_options(**{engines.READ_ONLY: True})
        self._kept: sa.Connection | None = None

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        connection = self._connection()
        try:
            return work(connection)
        finally:
            connection.rollback()

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        connection = self._connection()
        statements.execute(connection, "BEGIN IMMEDIATE")
        try:
            result = work(connection)
            statements.execute(connection, "COMMIT")
        except BaseException:
            # The pool undoes what was begun, and drops a connection with which that fails.
            self._kept = None
            connection.close()
            raise
        # What SQLAlchemy takes for a transaction of its own, where `work` has used it.
        connection.rollback()
        return result

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
        self._engine.dispose()

    def _connection(self) -> sa.Connection:
        if self._kept is None:
            self._kept = self._reading.connect()
        return self._kept
