"""SQLAlchemy's engines: what a connection is told once, and how long it may keep its caller waiting."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from dispatcher.store.rows import execute

READ_ONLY = "switchboard_read_only"
"""The execution option of connections that only read: on SQLite they need not wait for the write lock."""

UNTIL = "switchboard_until"
"""The execution option that says until when (by `time.perf_counter`) a transaction waits for SQLite's write
lock; without it, BUSY_TIMEOUT_SECONDS from its beginning."""

WAITS = "switchboard_waits"
"""In a connection's `info`: how long SQLite waits there for a lock, in milliseconds."""

BUSY_TIMEOUT_SECONDS = 5.0
"""Limit on a transaction's wait for another process's write lock on SQLite before the call fails. From
the call on: callers that waited one after the other would hear minutes later."""

SQLITE_READERS = 4
POSTGRES_CONNECTIONS = 10
"""Per replica. PostgreSQL's own default is 100 connections in all; beyond some ten, a replica's threads wait
for Python and not for the database."""

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
"""Limits on a connection to PostgreSQL, and on one statement: a database that hangs is one that is
down, and callers must hear so."""


def of(url: sa.URL) -> sa.Engine:
    """Its errors say the statement and hide the values: sessions' bodies, TURN servers' credentials."""
    if url.get_backend_name() == "postgresql":
        connect = {
            "connect_timeout": CONNECT_SECONDS,
            "options": f"-c statement_timeout={STATEMENT_SECONDS}s",
        }
        # What the URL says goes before.
        arguments = {name: value for name, value in connect.items() if name not in url.query}
        return sa.create_engine(
            url,
            pool_size=POSTGRES_CONNECTIONS,
            max_overflow=0,
            connect_args=arguments,
            pool_use_lifo=True,
            hide_parameters=True,
        )
    return sqlite(url, connections=SQLITE_READERS + 1, busy_timeout=BUSY_TIMEOUT_SECONDS, checkpoints=True)


def sqlite(url: sa.URL, *, connections: int, busy_timeout: float, checkpoints: bool) -> sa.Engine:
    """
    Args:
        checkpoints: Whether a commit that finds the log long copies it into the database.
    """
    engine = sa.create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"timeout": busy_timeout, "check_same_thread": False},
        hide_parameters=True,
    )

    # The driver's own transaction control begins late and without the write lock: ours replaces it.
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        # A commit outlives the process, and with WAL the file stays whole in any case. A power cut may lose
        # the last commits: and with them, on one host, every machine that they are about.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        if not checkpoints:
            cursor.execute("PRAGMA wal_autocheckpoint = 0")
        cursor.close()

    @event.listens_for(engine, "checkout")
    def _taken(connection: Any, record: ConnectionPoolEntry, _proxy: Any) -> None:
        _tell(connection, record.info, busy_timeout)

    @event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get(READ_ONLY, False):
            return
        left = options[UNTIL] - time.perf_counter() if UNTIL in options else BUSY_TIMEOUT_SECONDS
        wait_at_most(connection, max(left, 0.0))
        execute(connection, "BEGIN IMMEDIATE")

    return engine


def is_locked(error: OperationalError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def is_full(error: OperationalError) -> bool:
    """Return True if SQLite found no room on its disk, for its log or for the log's index."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def wait_at_most(connection: sa.Connection, seconds: float) -> None:
    """Have SQLite wait so long for what others have locked, until the connection is back in its pool."""
    _tell(connection.connection.driver_connection, connection.info, seconds)


def _tell(connection: Any, info: dict[Any, Any], seconds: float) -> None:
    # To the hundredth: most that begin have waited for nothing yet, and the connection knows that already.
    milliseconds = 10 * round(100 * seconds)
    if info.get(WAITS) != milliseconds:
        connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
        info[WAITS] = milliseconds
