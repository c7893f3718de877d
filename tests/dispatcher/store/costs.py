"""A query's cost, as the same number on every machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import sqlalchemy as sa


def steps(memory: sa.Connection, query: Callable[[sa.Connection], object]) -> int:
    """Count the instructions of SQLite's virtual machine that it takes, in hundreds."""
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        return 0

    raw = memory.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    raw.set_progress_handler(step, 100)
    try:
        query(memory)
    finally:
        raw.set_progress_handler(None, 0)
    return taken
