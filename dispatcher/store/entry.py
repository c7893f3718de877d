"""A start in one statement, on PostgreSQL, where only the agent's own limit counts and nobody waits.

The row of `loads`, which all starts of an agent change, is locked from there to the commit: one after the
other, the five statements of a start would hold it for five round trips and as many switches of threads.
SQLite, where none of this takes time, does not know such statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from dispatcher.domain.admission import Limits
from dispatcher.domain.model import Machine, Session
from dispatcher.domain.timeline import Event
from dispatcher.store import capacity, rows
from dispatcher.store.statements import Statement
from dispatcher.store.tables import events, machines, sessions


def enter(
    connection: sa.Connection, session: Session, machine: Machine, new: Sequence[Event], limits: Limits
) -> bool:
    """Write a session that is admitted, if there is a line, with its machine and its first events.

    False where it takes more to know whether there is one; then nothing is written.
    """
    if connection.dialect.name != "postgresql" or limits.deployment is not None:
        return False
    values = capacity.of_line(session.agent, limits)
    values |= _named(sessions, rows.values(session)) | _named(machines, rows.values(machine))
    for number, event in enumerate(new, 1):
        values |= _named(events, rows.event_values(event, session.id) | {"number": number}, number)
    return bool(_statement(len(new)).rows(connection, values))


@cache
def _statement(number_of_events: int) -> Statement:
    line = capacity.TAKEN_LINE.cte("line")
    parts = [_insert(sessions, line), _insert(machines, line)]
    parts += [_insert(events, line, number) for number in range(1, number_of_events + 1)]
    return Statement(sa.select(line.c.agent).add_cte(*parts))


def _insert(table: sa.Table, line: sa.CTE, number: int = 1) -> sa.CTE:
    """One row, if the line was taken."""
    given = [sa.bindparam(_name(table, column.name, number), type_=column.type) for column in table.c]
    insert = sa.insert(table).from_select(table.c.keys(), sa.select(*given).select_from(line))
    return insert.cte(f"new_{table.name}_{number}")


def _named(table: sa.Table, values: Mapping[str, Any], number: int = 1) -> dict[str, Any]:
    return {_name(table, name, number): value for name, value in values.items()}


def _name(table: sa.Table, column: str, number: int) -> str:
    return f"{table.name}_{number}_{column}"
