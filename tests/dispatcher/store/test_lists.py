"""Lists of sessions, and their cost: as much with many sessions as with few."""

from collections.abc import Callable
from itertools import product

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from dispatcher.domain.listing import Cursor, Filter
from dispatcher.domain.model import LIVE, OVER, SessionState
from dispatcher.store import queries
from dispatcher.store.tables import sessions
from tests.dispatcher.store.costs import steps

STATES = [(), LIVE, OVER, (SessionState.failed,), tuple(SessionState)]


def fill(memory: sa.Connection, count: int) -> None:
    """Sessions of two agents that are over, one in ten of them failed, in the order of their ids."""
    known = {"transport": "webrtc", "ice_servers": [], "start_timeout_seconds": 1.0, "timings": {}}
    known |= {"client_timeout_seconds": 1.0, "max_duration_seconds": 1.0, "turns_ms": []}
    rows = [
        {
            "id": f"{number:06}",
            "machine_id": f"m-{number:06}",
            "agent": "echo" if number % 2 else "other",
            "state": "failed" if number % 10 == 1 else "ended",
            "created_at": 1000.0 + number,
            **known,
        }
        for number in range(count)
    ]
    memory.execute(sa.insert(sessions), rows)


def read(query: sa.Select) -> Callable[[sa.Connection], object]:
    return lambda connection: connection.execute(query).all()


@pytest.mark.parametrize(("agent", "states"), list(product([None, "echo"], STATES)))
def test_a_list_costs_no_more_when_there_are_many_sessions(memory, agent, states):
    statements = [
        query
        for wanted in (Filter(agent, states), Filter(agent, states, created_from=1100, created_until=1300))
        for query in (
            queries.page(wanted, None, 10, 0),
            queries.page(wanted, Cursor(1200.0, "x"), 10, 0),
            queries.page(wanted, None, 10, 20),
            queries.count(wanted, 50),
        )
    ]
    fill(memory, 2_000)
    few = [steps(memory, read(query)) for query in statements]
    memory.execute(sa.delete(sessions))
    fill(memory, 20_000)
    many = [steps(memory, read(query)) for query in statements]
    for query, before, after in zip(statements, few, many, strict=True):
        assert after <= 1.3 * before + 1, str(query.compile(dialect=sqlite.dialect()))


@pytest.mark.parametrize(("agent", "states"), list(product([None, "echo"], STATES)))
def test_a_list_is_the_same_whether_states_are_read_one_by_one(memory, agent, states):
    fill(memory, 100)
    rows = memory.execute(sa.select(sessions.c.id, sessions.c.agent, sessions.c.state)).all()
    expected = [
        row.id
        for row in sorted(rows, reverse=True)
        if agent in (None, row.agent) and (not states or row.state in states)
    ]
    wanted = Filter(agent, (*states, *states))
    for limit, offset in product([1, 10, 100], [0, 3, 30]):
        found = memory.execute(queries.page(wanted, None, limit, offset)).all()
        assert [row.id for row in found] == expected[offset : offset + limit]
    behind = memory.execute(queries.page(wanted, Cursor(1050.0, "000050"), 100, 0)).all()
    assert [row.id for row in behind] == [number for number in expected if number < "000050"]
    assert memory.scalar(queries.count(wanted, 1000)) == len(expected)


def test_a_list_leaves_the_bodies_where_they_are(memory):
    fill(memory, 3)
    memory.execute(sa.update(sessions).values(body={"long": "x" * 100_000}))
    listed = memory.execute(queries.page(Filter(), None, 10, 0)).mappings().all()
    assert [row["body"] for row in listed] == [None] * 3
