"""Claims, fall-backs and counts of the reserve, in both databases."""

from __future__ import annotations

import asyncio

import pytest

from dispatcher.domain import reserve, transitions
from dispatcher.domain.admission import Limits
from dispatcher.domain.model import RESERVE_PREFIX, Machine, MachineState, Session
from dispatcher.domain.timeline import Cause
from dispatcher.store.store import Store
from tests.dispatcher.rows import rows

LIMITS = Limits({"echo": 100}, {"echo": 100})
CAUSE = Cause("dispatcher", 1010.0)


@pytest.fixture
async def store(url):
    made = Store(url)
    await made.open()
    yield made
    await made.close()


async def starting(store: Store) -> tuple[Session, Machine]:
    session, own = rows()
    admitted = transitions.wanted(own, "here", "process", 1027.0, "replica")
    added = await store.writes.add(session, own, admitted, LIMITS, "a test", None)
    assert added is not None
    return added


async def idle(store: Store, number: int, revision: str = "new") -> Machine:
    machine = Machine(
        f"{RESERVE_PREFIX}{number:032x}", None, "process", MachineState.requested, 900.0 + number,
        placement="here", create_by=1000.0, launcher="replica", agent="echo", revision=revision,
    )  # fmt: skip
    assert await store.reserves.add(machine, 100)
    changed = await store.writes.update_machine(
        machine.id, lambda current: reserve.waits(current, 950.0), CAUSE
    )
    assert changed is not None
    return changed[1]


async def claim(store: Store, session: Session, replica: str = "replica"):
    return await store.reserves.claim(session.id, replica, "new", CAUSE)


async def test_claim_takes_the_oldest_of_the_revision_and_tells_the_timeline(store):
    await idle(store, 1, "old")
    oldest = await idle(store, 2)
    await idle(store, 3)
    session, own = await starting(store)
    claimed = await claim(store, session)
    assert claimed is not None
    assert claimed.machine is not None
    assert (claimed.machine.id, claimed.session.machine_id) == (oldest.id, oldest.id)
    assert await store.machine(own.id) is None
    assert await store.session_with_machine(session.id) == (claimed.session, claimed.machine)
    assert [event.kind for event in await store.events(session.id)][-1] == "from-reserve"
    # The answer was lost: the same again.
    assert await claim(store, session) == claimed
    assert await claim(store, session, "another") is None


async def test_miss_says_why(store):
    await idle(store, 1, "old")
    session, _ = await starting(store)
    claimed = await claim(store, session)
    assert claimed is not None
    assert claimed.machine is None
    (event,) = [one for one in await store.events(session.id) if one.kind == "cold-start"]
    assert "no machine of this revision waits in the reserve (1 of another one, 0 start)" in event.message


async def test_concurrent_claims_never_share_a_machine(store):
    machines = {(await idle(store, number)).id for number in range(5)}
    sessions = [(await starting(store))[0] for _ in range(8)]
    claims = await asyncio.gather(*(claim(store, session) for session in sessions))
    taken = [one.machine.id for one in claims if one is not None and one.machine is not None]
    assert sorted(taken) == sorted(machines)
    assert await store.reserves.waiting() == []


async def test_either_the_acknowledgement_or_the_fall_back_wins(store):
    for number in range(6):
        await idle(store, number)
        session, own = await starting(store)
        claimed = await claim(store, session)
        assert claimed is not None
        assert claimed.machine is not None
        machine_id = claimed.machine.id
        acknowledge = store.writes.update_session_of(
            machine_id, lambda current: transitions.started(current, 1011.0), CAUSE, reserve.acknowledged
        )
        fall_back = store.reserves.fall_back(session.id, machine_id, lambda _, own=own: own, "why.", CAUSE)
        both = (acknowledge, fall_back) if number % 2 else (fall_back, acknowledge)
        results = await asyncio.gather(*both)
        acknowledged, fallen = results if number % 2 else reversed(results)
        assert (acknowledged is None) != (fallen is None)
        current, machine = await store.session_with_machine(session.id)
        assert current is not None
        assert machine is not None
        assert current.machine_id == machine.id == (own.id if fallen else machine_id)
        left = await store.machine(machine_id)
        assert left is not None
        assert left.state is (MachineState.retired if fallen else MachineState.assigned)


async def test_add_stops_at_the_most_whoever_adds(store):
    def machine(number: int) -> Machine:
        return Machine(
            f"{RESERVE_PREFIX}{number:032x}", None, "process", MachineState.requested, 1000.0, agent="echo"
        )

    added = await asyncio.gather(*(store.reserves.add(machine(number), 3) for number in range(8)))
    assert added.count(True) == 3


async def test_machines_that_wait_are_not_alone_and_claimed_ones_are_due(store):
    waiting = await idle(store, 1)
    page = await store.live_machines()
    assert (list(page.ids), list(page.alone)) == ([waiting.id], [])
    session, own = await starting(store)
    await claim(store, session)
    assert waiting.id in [machine.id for machine, _ in await store.due_machines(1010.0)]
    assert await store.reserves.fall_back(session.id, waiting.id, lambda _: own, "why.", CAUSE) is not None
    assert list((await store.live_machines()).alone) == [waiting.id]


async def test_arrivals_add_up_and_old_ones_are_deleted(store):
    await store.reserves.count({("echo", 300): 2, ("echo", 600): 1, ("other", 300): 7})
    await store.reserves.count({("echo", 600): 4})
    assert await store.reserves.history("echo") == {300: 2, 600: 5}
    assert await store.reserves.history("echo", 301) == {600: 5}
    await store.reserves.delete_old(600, 0.0, 10)
    assert await store.reserves.history("echo") == {600: 5}


async def test_machines_that_served_nobody_are_deleted_once_they_are_gone(store):
    one, two = await idle(store, 1), await idle(store, 2)
    await store.writes.update_machine(one.id, lambda m: transitions.machine_gone(m, None, 1000.0), CAUSE)
    assert await store.reserves.delete_old(0, 2000.0, 10) == 1
    assert await store.machine(one.id) is None
    assert await store.machine(two.id) == two
