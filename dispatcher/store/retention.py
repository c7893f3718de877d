"""Deleting old sessions, with their machines and timelines."""

from __future__ import annotations

import sqlalchemy as sa

from dispatcher.domain.model import OVER, MachineState
from dispatcher.store.tables import events, machines, outbox, sessions


def delete_sessions(connection: sa.Connection, before: float, limit: int) -> int:
    """Delete at most `limit` sessions that ended before that moment; gives how many.

    All of a session goes in one transaction. What others hold locked is left for the next time. The oldest
    are found by the index of the list, which begins with them.
    """
    running = sa.exists().where(machines.c.id == sessions.c.machine_id, machines.c.state != MachineState.gone)
    query = (
        sa.select(sessions.c.id)
        .where(
            # A session ends after it began: this bounds the search, and what follows is exact.
            sessions.c.created_at < before,
            sessions.c.ended_at < before,
            sessions.c.state.in_(OVER),
            ~running,
        )
        .order_by(sessions.c.created_at, sessions.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    old = list(connection.scalars(query))
    if old:
        connection.execute(sa.delete(outbox).where(outbox.c.session_id.in_(old)))
        connection.execute(sa.delete(events).where(events.c.session_id.in_(old)))
        connection.execute(sa.delete(machines).where(machines.c.session_id.in_(old)))
        connection.execute(sa.delete(sessions).where(sessions.c.id.in_(old)))
    return len(old)
