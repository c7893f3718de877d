"""The reaper's search, on SQLite and on PostgreSQL, and its cost."""

from dataclasses import replace
from itertools import product
from math import inf

import pytest
import sqlalchemy as sa

from dispatcher.domain.model import MachineState, SessionState
from dispatcher.store import queries
from dispatcher.store.rows import values
from dispatcher.store.tables import machines, sessions
from tests.dispatcher.rows import rows
from tests.dispatcher.store.costs import steps

NOW = 5000.0

TALKS = {"state": SessionState.active, "admitted_at": 1000.0, "started_at": 1001.0, "active_at": 1002.0}
IS_OVER = {"state": SessionState.ended, "started_at": 1001.0, "ended_at": 4999.0, "reason": "completed"}


@pytest.fixture(params=["sqlite", "postgresql"])
def connection(request):
    if request.param == "sqlite":
        yield request.getfixturevalue("memory")
        return
    engine = sa.create_engine(request.getfixturevalue("database"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def write(connection: sa.Connection, session_id: str, of_session: dict, of_machine: dict) -> str:
    """A session with its machine, with these columns; gives the machine's id."""
    session, machine = rows(session_id)
    machine = replace(machine, state=MachineState.started)
    connection.execute(sa.insert(sessions).values({**values(session), **of_session}))
    connection.execute(sa.insert(machines).values({**values(machine), **of_machine}))
    return machine.id


def test_what_somebody_must_look_after_is_found_and_nothing_else(connection):
    gone = {"state": MachineState.gone, "gone_at": 4999.5}
    expected = set()
    for number, (state, due_at, room, of_machine) in enumerate(
        product(
            (TALKS, IS_OVER),
            (None, NOW - 1, NOW + 1),
            (None, "open", "wanted"),
            ({"state": MachineState.requested, "placement": "here"}, {"state": MachineState.started}, gone),
        )
    ):
        machine_id = write(
            connection, f"s-{number}", {**state, "due_at": due_at, "room_state": room}, of_machine
        )
        asked_for = of_machine["state"] is MachineState.requested
        is_due = state is TALKS and (due_at != NOW + 1 or room == "wanted")
        if of_machine is not gone and (asked_for or is_due):
            expected.add((machine_id, f"s-{number}"))
    waits = {"state": SessionState.queued, "due_at": NOW + 1, "body": {"much": "x" * 1000}}
    nobody_asked = {"state": MachineState.requested, "placement": None}
    write(connection, "waits", waits, nobody_asked)
    waited = write(connection, "waited", {**waits, "due_at": NOW - 1}, nobody_asked)
    other = write(connection, "other", {**TALKS, "due_at": NOW + 1}, {"state": MachineState.started})
    over = write(connection, "over", {**IS_OVER, "due_at": None}, gone)

    def found(others: list[str]) -> list[tuple[str, str | None]]:
        pairs = queries.due(connection, NOW, others)
        assert all(session is None or session.body is None for _, session in pairs), "of a megabyte each"
        return sorted((machine.id, session and session.id) for machine, session in pairs)

    assert expected
    assert found([]) == sorted({*expected, (waited, "waited")})
    assert found([other, over, "m-unheard-of"]) == sorted({*expected, (waited, "waited"), (other, "other")})


def test_all_that_lives_is_searched_page_by_page(connection):
    gone = {"state": MachineState.gone, "gone_at": 4999.5}
    for number in range(3):
        write(connection, f"talks-{number}", TALKS, {})
        write(connection, f"starting-{number}", {"state": SessionState.starting, "started_at": None}, {})
        write(connection, f"over-{number}", IS_OVER, {})
        write(connection, f"past-{number}", IS_OVER, gone)
    _, nobodys = rows("nobodys")
    connection.execute(sa.insert(machines).values(values(replace(nobodys, state=MachineState.started))))
    expected_alone = ["m-nobodys", "m-over-0", "m-over-1", "m-over-2"]
    for limit in (1, 2, 3, 10, 11):
        ids, started, alone, pages, behind = [], [], [], 0, ""
        while behind is not None:
            page = queries.live(connection, behind, limit, None, inf)
            assert {*page.started, *page.alone} <= {*page.ids}
            ids += page.ids
            started += page.started
            alone += page.alone
            pages, behind = pages + 1, page.last
        assert sorted(started) == ["m-talks-0", "m-talks-1", "m-talks-2"]
        assert sorted(alone) == expected_alone
        assert len(ids) == len({*ids}) == 10
        assert pages == 10 // limit + 1, "the last one is not full"


def test_of_nothing_there_is_one_page(connection):
    assert queries.live(connection, "", 10, None, inf) == queries.Page((), (), (), None)


def test_what_lives_at_one_placement_is_told_with_what_had_started_by_a_moment(connection):
    for placement in ("here", "there"):
        for name, started_at in (("early", 999.5), ("late", 1000.0), ("never", None)):
            state = {**TALKS, "started_at": started_at}
            write(connection, f"{name}-{placement}", state, {"placement": placement})
    write(connection, "nowhere", TALKS, {"placement": None})
    page = queries.live(connection, "", 10, "here", 1000.0)
    assert sorted(page.ids) == ["m-early-here", "m-late-here", "m-never-here"]
    assert page.started == ["m-early-here"]
    assert len(queries.live(connection, "", 10, None, 1000.0).ids) == 7


@pytest.mark.parametrize("analyzed", [False, True])
def test_the_search_costs_no_more_when_there_are_many_past_sessions(memory, analyzed):
    def searched() -> int:
        if analyzed:
            memory.execute(sa.text("ANALYZE"))
        return steps(
            memory,
            lambda connection: (
                queries.live(connection, "m-1", 100, None, inf),
                queries.live(connection, "m-1", 100, "here", NOW),
                queries.due(connection, NOW, ["m-7"]),
            ),
        )

    for number in range(200):
        write(memory, f"{number}", {**TALKS, "due_at": NOW + 1}, {})
    few = searched()
    for number in range(3000):
        write(
            memory,
            f"{number}-past",
            {**IS_OVER, "due_at": None},
            {"state": MachineState.gone, "gone_at": 4999.5},
        )
    assert searched() <= 1.3 * few + 1
