"""Machines of the reserve: who may claim and keep one, and what the keeper plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.domain import reserve, transitions
from dispatcher.domain.model import End, Machine, MachineState
from dispatcher.domain.reserve import Wish, plan
from tests.dispatcher.rows import rows

NOW = 10_000.0


def waiting(number: int, state: MachineState = MachineState.idle, **more: object) -> Machine:
    values = {"created_at": NOW - 100 + number, "create_by": NOW + 20, "agent": "echo", "revision": "new"}
    machine = Machine(f"m-r{number:032x}", None, "process", state, **(values | more))  # pyright: ignore
    return replace(machine, seen_at=NOW - 50) if state is MachineState.idle else machine


def wish(machines: int, **more: object) -> Wish:
    values = {"revision": "new", "max_age": 3600.0, "most": 100}
    return Wish(machines, **(values | more))  # pyright: ignore


def starting():
    session, own = rows(at=NOW)
    session = transitions.admitted(session, NOW)
    return session, transitions.wanted(own, "here", "process", NOW + 27, "replica")


def claimed():
    session, own = starting()
    session, machine = reserve.claimed(session, waiting(1), own)
    return session, machine, own


def test_claim_moves_the_session_and_keeps_its_deadline_and_launcher():
    session, machine, own = claimed()
    assert (session.machine_id, machine.session_id, machine.state) == (machine.id, session.id, "claimed")
    assert (machine.create_by, machine.launcher) == (own.create_by, "replica")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda session, own: (transitions.started(session, NOW), own),
        lambda session, own: (transitions.over(session, End("stopped", ""), NOW), own),
        lambda session, own: (session, replace(own, launcher="another")),
        lambda session, own: (session, replace(own, state=MachineState.started)),
        lambda session, own: (replace(session, machine_id="m-rother"), own),
    ],
)
def test_session_may_not_claim_once_it_has_or_needs_no_machine(spoil):
    assert reserve.may_claim(*starting(), "replica")
    session, own = spoil(*starting())
    assert not reserve.may_claim(session, own, "replica")


def test_fall_back_before_the_acknowledgement_retires_the_machine():
    session, machine, own = claimed()
    fallen = reserve.fallen_back(session, machine, own)
    assert fallen is not None
    after, left = fallen
    assert after.machine_id == own.id
    assert (left.state, left.session_id) == (MachineState.retired, None)


def test_fall_back_after_the_acknowledgement_changes_nothing():
    session, machine, own = claimed()
    session, machine = transitions.started(session, NOW), reserve.acknowledged(machine)
    assert machine.state is MachineState.assigned
    assert reserve.fallen_back(session, machine, own) is None


def test_claimed_machine_can_be_neither_retired_nor_claimed_again():
    _, machine, _ = claimed()
    assert reserve.retired(machine) is machine
    assert reserve.waits(machine, NOW) is machine
    assert not reserve.is_waiting(machine)


S, R, I = MachineState.started, MachineState.requested, MachineState.idle  # noqa: E741


@pytest.mark.parametrize(
    ("wished", "machines", "silent", "create", "retired"),
    [
        (wish(3), [], [], 3, []),
        (wish(3), [waiting(1), waiting(2, R), waiting(3, S)], [], 0, []),
        (wish(1), [waiting(1), waiting(2), waiting(3)], [], 0, [1, 2]),
        # What starts goes on: it is retired once it waits.
        (wish(0), [waiting(1), waiting(2, R)], [], 0, [1]),
        (wish(2), [waiting(1), waiting(2)], [1], 1, [1]),
        (wish(1), [waiting(1, R, create_by=NOW - 1)], [], 1, [1]),
        # Another revision: kept until as many new ones wait.
        (wish(2), [waiting(1, revision="old"), waiting(2, revision="old")], [], 2, []),
        (wish(2), [waiting(1, revision="old"), waiting(2, revision="old"), waiting(3)], [], 1, [1]),
        (wish(1), [waiting(1, revision="old"), waiting(2)], [], 0, [1]),
        (wish(1), [waiting(1, R, revision="old")], [], 1, [1]),
        (wish(1), [waiting(1, created_at=NOW - 3600)], [], 1, []),
        # No room: one by one.
        (wish(2, most=2), [waiting(1, revision="old"), waiting(2, revision="old")], [], 1, [1]),
        (wish(5, most=3), [waiting(1)], [], 2, []),
        (wish(3, may_create=False), [waiting(1)], [], 0, []),
    ],
)
def test_plan(wished, machines, silent, create, retired):
    found = plan(wished, machines, {f"m-r{number:032x}" for number in silent}, NOW)
    assert found.create == create
    assert [machine.id for machine, _ in found.retire] == [f"m-r{number:032x}" for number in retired]


machines_ = st.lists(
    st.builds(
        waiting,
        st.integers(1, 1000),
        st.sampled_from([S, R, I]),
        revision=st.sampled_from(["new", "old"]),
        create_by=st.sampled_from([NOW - 1, NOW + 20]),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@given(machines_, st.integers(0, 12), st.integers(1, 12))
def test_plan_never_exceeds_the_most_and_reaches_the_wish(machines, wanted, most):
    wanted = min(wanted, most)
    for _ in range(30):
        found = plan(wish(wanted, most=most), machines, (), NOW)
        ended = {machine.id for machine, _ in found.retire}
        assert len(ended) == len(found.retire)
        left = [one for one in machines if one.id not in ended]
        assert found.create == 0 or len(left) + found.create <= most
        fresh = [waiting(2000 + len(machines) + n) for n in range(found.create)]
        # All that starts comes.
        machines = [replace(one, state=I) for one in left] + fresh
        for number, one in enumerate(machines):
            machines[number] = replace(one, id=f"m-r{number:032x}")
    assert [one.revision for one in machines] == ["new"] * wanted
