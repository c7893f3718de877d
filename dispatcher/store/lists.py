"""The queries of lists of sessions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dispatcher.sessions.listing import Cursor, Filter
from dispatcher.store.tables import sessions


def page(wanted: Filter, behind: Cursor | None, limit: int, offset: int) -> sa.Select[Any]:
    """A page of sessions, newest first. Behind a cursor its cost does not grow with the pages before."""
    query = sa.select(sessions).where(*_conditions(wanted))
    if behind is not None:
        key = sa.tuple_(sessions.c.created_at, sessions.c.id)
        query = query.where(key < sa.tuple_(sa.literal(behind.created_at), sa.literal(behind.id)))
    order = (sessions.c.created_at.desc(), sessions.c.id.desc())
    return query.order_by(*order).limit(limit).offset(offset)


def count(wanted: Filter) -> sa.Select[Any]:
    return sa.select(sa.func.count()).select_from(sessions).where(*_conditions(wanted))


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    ready_after = sessions.c.ready_at - sessions.c.created_at
    conditions = []
    if wanted.agent is not None:
        conditions.append(sessions.c.agent == wanted.agent)
    if wanted.states:
        conditions.append(sessions.c.state.in_(wanted.states))
    if wanted.created_from is not None:
        conditions.append(sessions.c.created_at >= wanted.created_from)
    if wanted.created_until is not None:
        conditions.append(sessions.c.created_at <= wanted.created_until)
    if wanted.ready_after_at_least is not None:
        conditions.append(ready_after >= wanted.ready_after_at_least)
    if wanted.ready_after_at_most is not None:
        conditions.append(ready_after <= wanted.ready_after_at_most)
    return conditions
