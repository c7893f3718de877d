"""The lifecycle, as values."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.protocol import Phase
from dispatcher.domain import deadlines, ends, model, transitions
from dispatcher.domain.model import End, Machine, MachineState, MachineStatus, SessionState
from tests.dispatcher.rows import rows

NEW, _ = rows("s")
ORDER = list(SessionState)


def gone(exit_code: int, output: str = "") -> MachineStatus:
    return MachineStatus("m-s", MachineState.gone, exit_code, output)


events = st.one_of(
    st.just(transitions.admitted),
    st.just(transitions.started),
    st.sampled_from(get_args(Phase)).map(
        lambda phase: lambda session, now: transitions.reported(session, phase, {"imported": 1.0}, now)
    ),
    st.just(transitions.client_left),
    st.integers(0, 255).map(lambda code: lambda session, now: transitions.exited(session, gone(code))),
    st.floats(0, 1e4).map(lambda ms: lambda session, now: transitions.first_word(session, ms)),
    st.floats(0, 1e4).map(lambda ms: lambda session, now: transitions.turn(session, ms, now)),
    st.sampled_from(["completed", "stopped", "bot_error", "machine_lost"]).map(
        lambda reason: lambda session, now: transitions.over(session, End(reason, "Why."), now)
    ),
)


ONCE = (
    "started_at",
    "waiting_at",
    "ready_at",
    "active_at",
    "ended_at",
    "reason",
    "exit_code",
    "first_word_ms",
)
"""What is never written over."""


@given(st.lists(events))
def test_no_order_of_events_takes_a_session_back(history):
    session = NEW
    for now, event in enumerate(history, start=1001):
        before, session = session, event(session, float(now))
        assert ORDER.index(session.state) >= ORDER.index(before.state)
        for name in ONCE:
            assert getattr(before, name) in (None, getattr(session, name)), name
        assert session.over == (session.ended_at is not None) == (session.reason is not None)
        assert (session.active_at is None) or session.state in ("active", *model.OVER)
        assert (session.started_at is None) or session.state is not SessionState.queued
        assert event(session, float(now)).state == session.state
        order = ("created_at", "started_at", "waiting_at", "ready_at", "active_at", "ended_at")
        times = [time for name in order if (time := getattr(session, name)) is not None]
        assert times == sorted(times)


@given(st.lists(events), st.lists(events))
def test_a_session_that_is_over_stays_as_it_ended(before, after):
    session, now = NEW, 1000.0
    for event in before:
        session, now = event(session, now), now + 1
    over = session = transitions.over(session, End("stopped", "Stopped."), now)
    for event in after:
        session, now = event(session, now), now + 1
    # What was measured, and how the process ended, may still come in.
    late = ("timings", "first_word_ms", "turns_ms", "exit_code")
    assert replace(session, **{name: getattr(over, name) for name in late}) == over


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("completed", "ended"),
        ("stopped", "ended"),
        ("max_duration", "failed"),
        ("bot_error", "failed"),
        ("machine_killed", "failed"),
    ],
)
def test_only_good_reasons_end_well(reason, state):
    assert transitions.over(NEW, End(reason, "Why."), 1001.0).state == state


def test_a_machine_that_was_told_to_end_by_its_host_was_stopped():
    end = ends.end_by_loss(MachineStatus("m-s", MachineState.gone, 143, "its last words"))
    assert (end.reason, end.detail, end.exit_code) == ("machine_stopped", "its last words", 143)


def test_a_machine_that_used_all_of_its_memory_is_told_as_that():
    status = MachineStatus("m-s", MachineState.gone, 137, "its last words", out_of_memory_mb=512)
    end = ends.end_by_loss(status)
    assert (end.reason, end.detail, end.exit_code) == ("out_of_memory", "its last words", 137)
    assert end.message == "The bot used all of its machine's memory, 512 MiB, and was ended."


def test_the_first_reason_stays():
    failed = transitions.over(NEW, End("bot_error", "It raised."), 1001.0)
    assert transitions.over(failed, End("stopped", "Stopped."), 1002.0) is failed


@pytest.mark.parametrize(
    ("known", "now", "reason"),
    [
        ({"admitted_at": None, "queue_seconds": 20.0}, 1020.0, None),
        ({"admitted_at": None, "queue_seconds": 20.0}, 1020.1, "queue_timeout"),
        ({}, 1030.0, None),
        ({}, 1030.1, "start_timeout"),
        ({"admitted_at": 1019.0, "queue_seconds": 20.0}, 1049.0, None),
        ({"admitted_at": 1019.0, "queue_seconds": 20.0}, 1049.1, "start_timeout"),
        ({"waiting_at": 1005.0}, 1065.0, None),
        ({"waiting_at": 1005.0}, 1065.1, "no_client"),
        ({"waiting_at": 1005.0, "phase": "starting"}, 1065.1, "start_timeout"),
        ({"waiting_at": 1005.0, "ready_at": 1006.0}, 8200.0, None),
        ({"waiting_at": 1005.0, "ready_at": 1006.0}, 8215.1, "max_duration"),
        ({"waiting_at": 1005.0, "ready_at": 1006.0, "idle_since": 1006.0}, 1066.0, None),
        ({"waiting_at": 1005.0, "ready_at": 1006.0, "idle_since": 1006.0}, 1066.1, "no_client"),
        ({"ready_at": 1006.0, "active_at": 1007.0, "idle_since": 1100.0}, 1400.0, None),
        ({"ready_at": 1006.0, "active_at": 1007.0, "idle_since": 1100.0}, 1400.1, "idle_timeout"),
    ],
)
def test_each_phase_has_its_deadline(known, now, reason):
    session = replace(NEW, **{"admitted_at": 1000.0, "idle_timeout_seconds": 300.0, **known})
    end = deadlines.overdue(session, now)
    assert (end.reason if end else None) == reason


def test_a_machine_is_gone_once():
    machine = Machine("m", "s", "process", MachineState.started, 1000.0)
    gone = transitions.machine_gone(machine, MachineStatus("m", MachineState.gone, 137), 1001.0)
    assert (gone.state, gone.gone_at, gone.exit_code) == (MachineState.gone, 1001.0, 137)
    assert transitions.machine_gone(gone, None, 1002.0) is gone


def test_a_machine_moves_from_placement_to_placement_until_it_is_gone():
    machine = Machine("m", "s", "process", MachineState.requested, 1000.0, placement="near")
    moved = transitions.placed(machine, "far", "ecs")
    assert (moved.placement, moved.provider) == ("far", "ecs")
    gone = transitions.machine_gone(machine, None, 1001.0)
    assert transitions.placed(gone, "far", "ecs") is gone


def test_a_machine_stays_when_a_placement_that_was_asked_before_says_that_it_is_gone():
    machine = Machine("m", "s", "process", MachineState.requested, 1000.0, placement="far")
    assert transitions.gone_from(machine, "near", MachineStatus("m", MachineState.gone), 1001.0) is machine
    assert transitions.gone_from(machine, "far", None, 1001.0).state is MachineState.gone


@pytest.mark.parametrize(
    ("placement", "started_at", "now", "counts"),
    [
        (None, None, 1000.0, True),
        ("near", None, 1027.0, False),
        ("near", None, 1036.9, False),
        ("near", None, 1037.0, True),
        ("near", 1005.0, 1014.9, False),
        ("near", 1005.0, 1015.0, True),
    ],
)
def test_that_a_provider_knows_no_machine_proves_nothing_while_it_may_come(
    placement, started_at, now, counts
):
    machine = Machine(
        "m", "s", "process", MachineState.requested, 1000.0, placement=placement, create_by=1027.0
    )
    session = replace(NEW, started_at=started_at)
    assert deadlines.absence_counts(machine, session, 10.0, now) is counts
    assert deadlines.absence_counts(machine, None, 10.0, 1037.0)


def test_the_turns_that_are_kept_are_bounded():
    session = NEW
    for number in range(transitions.MAX_TURNS_KEPT + 5):
        session = transitions.turn(session, float(number), 1001.0)
    assert session.turns_ms[0] == 5.0
    assert len(session.turns_ms) == transitions.MAX_TURNS_KEPT


def test_what_bots_write_is_kept_without_what_no_database_takes():
    session = transitions.over(NEW, End("bot_error", "It said \0.", "\0a\0b"), 1001.0)
    assert (session.message, session.detail) == ("It said .", "ab")


def test_what_bots_write_is_bounded_and_an_exit_code_may_come_late():
    session = transitions.over(NEW, End("bot_error", "x" * 5000, "y" * 50_000), 1001.0)
    assert len(session.message or "") == transitions.MAX_MESSAGE_LENGTH
    assert len(session.detail or "") == transitions.MAX_DETAIL_LENGTH
    assert transitions.exited(session, gone(137)).exit_code == 137
    assert transitions.exited(transitions.exited(session, gone(137)), gone(0)).exit_code == 137
    assert transitions.exited(NEW, gone(137)).exit_code is None


@pytest.mark.parametrize("reason", ["start_timeout", "unresponsive"])
def test_a_silent_bots_last_words_are_its_sessions_detail(reason):
    silent = transitions.over(NEW, End(reason, "It said nothing."), 1001.0)
    told = transitions.exited(silent, gone(1, "Name or\0 service not known"))
    assert told.detail == "Name or service not known"
    assert transitions.exited(told, gone(1, "other words")).detail == told.detail
    assert transitions.exited(silent, None) == silent
    stopped = transitions.over(NEW, End("stopped", "It was stopped."), 1001.0)
    assert transitions.exited(stopped, gone(1, "words")).detail is None
