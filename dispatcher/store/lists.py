"""The queries of lists of sessions.

Their cost must not grow with the sessions that are over and kept. Every state, and every agent, that is asked
for is read on its own, newest first, from the index that has it in that order, and no further than the page
needs: asked for several at once, a database reads all of them and sorts, or reads all sessions and picks.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import Session
from dispatcher.store import rows
from dispatcher.store.tables import sessions

# What sessions were started with stays where it is: a megabyte each, of which no list shows anything. So do
# tokens.
_NOT_READ: dict[str, sa.ColumnElement[Any]] = {
    "body": sa.null().label("body"),
    "ice_servers": sa.literal([], sessions.c.ice_servers.type).label("ice_servers"),
    "room": sa.null().label("room"),
}
COLUMNS = tuple(_NOT_READ.get(name, sessions.c[name]) for name in rows.FIELDS[Session])
LISTED: sa.Select[Any] = sa.select(*COLUMNS)

NEWEST_FIRST = (sessions.c.created_at.desc(), sessions.c.id.desc())


def page(wanted: Filter, behind: Cursor | None, limit: int, offset: int) -> sa.Select[Any]:
    """A page of sessions, newest first, without their bodies, ICE servers and rooms.

    Behind a cursor its cost does not grow with the pages before.
    """
    parts = _parts(wanted)
    if behind is not None:
        key = sa.tuple_(sessions.c.created_at, sessions.c.id)
        last = sa.tuple_(sa.literal(behind.created_at), sa.literal(behind.id))
        parts = [[*conditions, key < last] for conditions in parts]
    if len(parts) == 1:
        return LISTED.where(*parts[0]).order_by(*NEWEST_FIRST).limit(limit).offset(offset)
    found = sa.union_all(*(_newest(conditions, offset + limit) for conditions in parts)).subquery()
    order = (found.c.created_at.desc(), found.c.id.desc())
    shown = sa.select(found.c.id).order_by(*order).limit(limit).offset(offset)
    return LISTED.where(sessions.c.id.in_(shown)).order_by(*NEWEST_FIRST)


def count(wanted: Filter, at_most: int) -> sa.Select[Any]:
    """Count sessions, no further than that number in each state."""
    counts = []
    for conditions in _parts(wanted):
        some = sa.select(sa.literal(1)).select_from(sessions).where(*conditions).limit(at_most).subquery()
        counts.append(sa.select(sa.func.count()).select_from(some).scalar_subquery())
    return sa.select(sum(counts[1:], counts[0]))


def _newest(conditions: list[sa.ColumnElement[bool]], limit: int) -> sa.Select[Any]:
    """Wrapped: a part of a union has no order of its own."""
    newest = sa.select(sessions.c.id, sessions.c.created_at).where(*conditions).order_by(*NEWEST_FIRST)
    return sa.select(newest.limit(limit).subquery())


def _parts(wanted: Filter) -> list[list[sa.ColumnElement[bool]]]:
    """The conditions of each part that has an index of its own: of each agent and state that is asked for."""
    parts = [_conditions(wanted)]
    if wanted.agents and wanted.agent is None:
        parts = [[*part, sessions.c.agent == agent] for part in parts for agent in sorted(wanted.agents)]
    if wanted.states:
        states = dict.fromkeys(wanted.states)
        parts = [[*part, sessions.c.state == state] for part in parts for state in states]
    return parts


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    ready_after = sessions.c.ready_at - sessions.c.created_at
    conditions = []
    if wanted.agent is not None:
        conditions.append(sessions.c.agent == wanted.agent)
        if wanted.agents and wanted.agent not in wanted.agents:
            conditions.append(sa.false())
    if wanted.created_from is not None:
        conditions.append(sessions.c.created_at >= wanted.created_from)
    if wanted.created_until is not None:
        conditions.append(sessions.c.created_at <= wanted.created_until)
    if wanted.ready_after_at_least is not None:
        conditions.append(ready_after >= wanted.ready_after_at_least)
    if wanted.ready_after_at_most is not None:
        conditions.append(ready_after <= wanted.ready_after_at_most)
    if wanted.reasons:
        conditions.append(sessions.c.reason.in_(wanted.reasons))
    if wanted.other_reasons:
        conditions.append(sessions.c.reason.not_in(wanted.other_reasons))
    return conditions
