"""Queries of lists, of counts, and of what the reaper looks at.

The cost of lists must not grow with the sessions that are over and kept. Every state, and every agent, that
is asked for is read on its own, newest first, from the index that has it in that order, and no further than
the page needs: asked for several at once, a database reads all of them and sorts, or reads all sessions and
picks.

Of ten thousand machines that talk, the reaper looks at none: the database passes them over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import LIVE, Machine, MachineState, Session, is_of_reserve
from dispatcher.domain.reserve import WAITING
from dispatcher.store import rows
from dispatcher.store.tables import machines, sessions

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


@dataclass(frozen=True, slots=True)
class Counts:
    """(agent, state) → live sessions, and (placement, state) → machines that are not known to be gone.

    A machine that no placement was asked for yet has the placement ''.
    """

    sessions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    machines: Mapping[tuple[str, str], int] = field(default_factory=dict)


def count_live(connection: sa.Connection) -> Counts:
    """Both queries read an index; neither grows with what is over."""
    return Counts(
        {(agent, state): number for agent, state, number in connection.execute(_live_sessions())},
        {(name or "", state): number for name, state, number in connection.execute(_live_machines())},
    )


def _live_sessions() -> sa.Select[str, str, int]:
    return (
        sa.select(sessions.c.agent, sessions.c.state, sa.func.count())
        .where(sessions.c.state.in_(LIVE))
        .group_by(sessions.c.agent, sessions.c.state)
    )


def _live_machines() -> sa.Select[str | None, str, int]:
    return (
        sa.select(machines.c.placement, machines.c.state, sa.func.count())
        .where(machines.c.gone_at.is_(None))
        .group_by(machines.c.placement, machines.c.state)
    )


_IS_LIVE = sessions.c.ended_at.is_(None)
_NOT_GONE = machines.c.gone_at.is_(None)
_THEIRS = sessions.c.machine_id == machines.c.id


# All that is searched of what lives stands in two indexes which have nothing else: to look up its rows as
# well would take several times as long, on the core of the starts. Lists of it come as one text, of which a
# row each would take Python's lock thousands of times. And no search joins one with the other: a database
# that has not counted its rows yet, or remembers a plan from when there were ten, compares all with all.
def _machines(*conditions: sa.ColumnElement[bool]) -> sa.Select[int, str, str, str]:
    found = (
        sa.select(machines.c.id, machines.c.state)
        .where(_NOT_GONE, machines.c.id > sa.bindparam("behind"), *conditions)
        .order_by(machines.c.id)
        .limit(sa.bindparam("limit"))
        .subquery()
    )
    waiting = sa.case((found.c.state.in_(WAITING), found.c.id))
    columns = (
        sa.func.count(),
        sa.func.max(found.c.id),
        sa.func.aggregate_strings(found.c.id, " "),
        sa.func.aggregate_strings(waiting, " "),
    )
    return sa.select(*columns).select_from(found)


_MACHINES, _MACHINES_AT = _machines(), _machines(machines.c.placement == sa.bindparam("placement"))
_HAS_STARTED = sa.case((sessions.c.started_at < sa.bindparam("started_before"), sessions.c.machine_id))
_OF_SESSIONS = sa.select(
    sa.func.aggregate_strings(sessions.c.machine_id, " "), sa.func.aggregate_strings(_HAS_STARTED, " ")
).where(
    _IS_LIVE,
    sessions.c.machine_id > sa.bindparam("behind"),
    sessions.c.machine_id <= sa.bindparam("last"),
)
_DUE = sa.union_all(
    sa.select(sessions.c.machine_id).where(
        _IS_LIVE,
        sa.or_(
            sessions.c.due_at.is_(None),
            sessions.c.due_at < sa.bindparam("now"),
            sessions.c.room_state == "wanted",
        ),
    ),
    # Its launcher may have died. Of a session that waits for a slot nobody asked for a machine yet.
    sa.select(machines.c.id).where(
        _NOT_GONE, machines.c.state == MachineState.requested, machines.c.placement.is_not(None)
    ),
    # Who has claimed it may have died.
    sa.select(machines.c.id).where(_NOT_GONE, machines.c.state == MachineState.claimed),
)
_OF_MACHINE = [machines.c[name] for name in rows.FIELDS[Machine]]
_FIELDS_OF_MACHINE = len(_OF_MACHINE)
_PAIRS = (
    sa.select(*_OF_MACHINE, *COLUMNS)
    .select_from(machines.outerjoin(sessions, _THEIRS))
    .where(_NOT_GONE, machines.c.id.in_(sa.bindparam("ids", expanding=True)))
)
_MOST_IDS = 1000
"""In one statement. SQLite takes 32,766 values at most."""
PAGE = 2000
"""Machines that are searched in one piece: some 3 ms, and starts need the core in between."""


@dataclass(frozen=True, slots=True)
class Page:
    """The ids of machines that are not known to be gone, of one stretch of all ids."""

    ids: Sequence[str]
    started: Sequence[str]
    """Those of them whose sessions are live and have started."""
    alone: Sequence[str]
    """Those of them whose sessions are over, or which have none and do not wait for one in the reserve."""
    last: str | None
    """The next page is behind this id; None: there is none."""


def live(
    connection: sa.Connection, behind: str, limit: int, placement: str | None, started_before: float
) -> Page:
    """The first machines whose ids come behind this one, at most so many; of one placement, or of all.

    Args:
        started_before: In unix seconds. Who started later is not among the `started`.
    """
    which = {"behind": behind, "limit": limit}
    if placement is None:
        found = connection.execute(_MACHINES, which)
    else:
        found = connection.execute(_MACHINES_AT, {**which, "placement": placement})
    number, last, theirs, in_reserve = found.one()
    if not number:
        return Page((), (), (), None)
    bounds = {"behind": behind, "last": last, "started_before": started_before}
    of_sessions, of_started = connection.execute(_OF_SESSIONS, bounds).one()
    ids, owned, started = theirs.split(), set((of_sessions or "").split()), set((of_started or "").split())
    # Of one that starts for its session that session alone tells.
    owned.update(one for one in (in_reserve or "").split() if is_of_reserve(one))
    return Page(
        ids,
        [machine_id for machine_id in ids if machine_id in started],
        [machine_id for machine_id in ids if machine_id not in owned],
        last if number == limit else None,
    )


def due(
    connection: sa.Connection, now: float, others: Collection[str]
) -> list[tuple[Machine, Session | None]]:
    """Machines that are not known to be gone, with their sessions: a deadline passed, they or their rooms are
    being asked for, or they are among these others. Each comes once.
    """
    return pairs(connection, {*others, *connection.scalars(_DUE, {"now": now})})


def pairs(connection: sa.Connection, machine_ids: Collection[str]) -> list[tuple[Machine, Session | None]]:
    """Those of these machines that are not known to be gone, with their sessions, as lists have them."""
    ids = sorted(machine_ids)
    found: list[tuple[Machine, Session | None]] = []
    for begin in range(0, len(ids), _MOST_IDS):
        # A machine and its session in one statement: of a session that moves on between two, the machine
        # alone would be found, and ended as one that has none.
        for row in connection.execute(_PAIRS, {"ids": ids[begin : begin + _MOST_IDS]}):
            of_session = row[_FIELDS_OF_MACHINE:]
            session = rows.record(Session, of_session) if of_session[0] is not None else None
            found.append((rows.record(Machine, row[:_FIELDS_OF_MACHINE]), session))
    return found


def rooms(connection: sa.Connection, now: float, limit: int) -> list[Session]:
    """Sessions that are over and whose rooms have to be deleted, longest due first, as lists have them."""
    query = LISTED.where(sessions.c.room_due_at <= now)
    return rows.many(connection, Session, query.order_by(sessions.c.room_due_at).limit(limit))
