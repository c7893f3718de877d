"""The outbox: messages to the deployment's back end that are not delivered yet.

A message is written in the transaction of its event, so a crash loses none. One that was delivered, or given
up, is deleted. A session's messages go out in order: only the first of each session is ever due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from dispatcher.domain.model import Session
from dispatcher.domain.outgoing import Outgoing, had
from dispatcher.store import queries, rows
from dispatcher.store.database import Database
from dispatcher.store.tables import outbox, sessions

PAGE = 500
"""Sessions whose messages one transaction writes again: a longer one would hold up every start on SQLite."""


def put(connection: sa.Connection, messages: Iterable[Outgoing], due_at: float | None = None) -> int:
    """Write messages; those that wait already stay as they are. Returns how many are new.

    Args:
        due_at: Time of their first attempts; by default that of each message's event.
    """
    new = 0
    for message in messages:
        # It cannot go out before those of its session that wait for another attempt.
        earlier = sa.select(sa.func.max(outbox.c.due_at)).where(outbox.c.session_id == message.session_id)
        waits_until = connection.scalar(earlier) or 0.0
        new += rows.add_unless_there(
            connection,
            outbox,
            session_id=message.session_id,
            type=message.type,
            rank=message.rank,
            at=message.at,
            attempts=message.attempts,
            due_at=max(message.at if due_at is None else due_at, waits_until),
        )
    return new


class Outbox:
    """Reads and writes of the messages in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, now: float, limit: int) -> Sequence[Outgoing]:
        """Return messages whose time has come, the longest due first, and of each session only the first."""
        earlier = outbox.alias()
        waits = sa.exists().where(earlier.c.session_id == outbox.c.session_id, earlier.c.rank < outbox.c.rank)
        query = (
            sa.select(outbox.c.session_id, outbox.c.type, outbox.c.at, outbox.c.attempts)
            .where(outbox.c.due_at <= now, ~waits)
            .order_by(outbox.c.due_at)
            .limit(limit)
        )
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return [Outgoing(*row) for row in found]

    async def remove(self, message: Outgoing) -> None:
        """Delete a message that was delivered, or is given up."""
        delete = sa.delete(outbox).where(_is(message))
        await self._database.write(lambda connection: connection.execute(delete), quick=True)

    async def postpone(self, message: Outgoing, due_at: float) -> None:
        """Count a failed attempt, and let the session's messages wait until then."""
        count = sa.update(outbox).where(_is(message)).values(attempts=message.attempts + 1)
        of_session = sa.update(outbox).where(outbox.c.session_id == message.session_id)

        def write(connection: sa.Connection) -> None:
            connection.execute(count)
            connection.execute(of_session.values(due_at=due_at))

        await self._database.write(write, quick=True)

    async def replay(self, since: float, until: float, now: float) -> int:
        """Write the messages of all sessions again that were created in this time; gives how many.

        Those that are not delivered yet stay as they are.
        """
        done, behind = 0, ""
        while True:
            query = (
                sa.select(sessions.c.id)
                .where(sessions.c.created_at >= since, sessions.c.created_at < until, sessions.c.id > behind)
                .order_by(sessions.c.id)
                .limit(PAGE)
            )
            ids = await self._database.read(lambda connection, query=query: connection.scalars(query).all())
            if not ids:
                return done
            done += await self._database.write(
                lambda connection, ids=ids: put(connection, _again(connection, ids), now)
            )
            behind = ids[-1]


def _again(connection: sa.Connection, ids: Sequence[str]) -> Iterable[Outgoing]:
    """Yield the messages that the sessions have had, from their rows."""
    query = queries.LISTED.where(sessions.c.id.in_(ids))
    for session in rows.many(connection, Session, query):
        yield from had(session)


def _is(message: Outgoing) -> sa.ColumnElement[bool]:
    return sa.and_(outbox.c.session_id == message.session_id, outbox.c.type == message.type)
