"""The timeline, as values."""

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.protocol import Phase
from dispatcher.domain import model, timeline, transitions
from dispatcher.domain.model import End, Machine, MachineState, MachineStatus, SessionState
from dispatcher.domain.timeline import Cause
from tests.dispatcher.rows import rows

NEW, _ = rows("s")
MACHINE = Machine("m", "s", "process", MachineState.started, 1000.0)

changes = st.one_of(
    st.just(transitions.admitted),
    st.just(transitions.started),
    st.sampled_from(get_args(Phase)).map(
        lambda phase: lambda session, now: transitions.reported(session, phase, None, now)
    ),
    st.just(transitions.client_left),
    st.floats(0, 1e4).map(lambda ms: lambda session, now: transitions.turn(session, ms, now)),
    st.sampled_from(["completed", "stopped", "bot_error"]).map(
        lambda reason: lambda session, now: transitions.over(session, End(reason, "Why."), now)
    ),
)


EDGES = {("queued", "starting"), ("starting", "ready"), ("ready", "active")}
EDGES |= {(state, end) for state in model.LIVE for end in model.OVER}
"""Between the states that a timeline tells, whatever a change may skip."""


@given(st.lists(changes), st.sampled_from(["its client", timeline.MACHINE, timeline.REAPER]))
def test_the_timeline_tells_what_the_session_is(history, actor):
    session, events = NEW, [timeline.asked(NEW, "its client")]
    for now, change in enumerate(history, start=1001):
        before, session = session, change(session, float(now))
        events += timeline.changed(before, session, Cause(actor, float(now)))
        assert timeline.changed(session, session, Cause(actor, float(now))) == []
    kinds: list[str] = [event.kind for event in events]
    assert events[-1].state == session.state
    assert (kinds[0], events[0].state) == ("queued", "queued")
    steps = pairwise(event.state for event in events)
    assert all(before == after or (before, after) in EDGES for before, after in steps)
    assert [event.at for event in events] == sorted(event.at for event in events)
    once = ("queued", "starting", "machine-started", "ready", "active", "ended", "failed")
    assert all(kinds.count(kind) <= 1 for kind in once)
    assert ("machine-started" in kinds) == (session.started_at is not None)
    assert ("ready" in kinds) == (session.ready_at is not None)
    assert ("active" in kinds) == (session.active_at is not None)
    assert (kinds[-1] in timeline.ENDS) == session.over
    assert len(timeline.ENDS.intersection(kinds)) == session.over
    left = kinds.count("client-connected") - kinds.count("client-disconnected")
    assert (session.phase == "active") <= (left >= 1)
    assert all(event.message for event in events)


@pytest.mark.parametrize(
    ("actor", "reason", "kinds"),
    [
        ("its client", "stopped", ["stop-requested", "ended"]),
        ("machine", "stopped", ["ended"]),
        ("machine", "bot_error", ["failed"]),
        ("reaper", "no_client", ["failed"]),
    ],
)
def test_a_stop_says_who_asked_for_it(actor, reason, kinds):
    over = transitions.over(NEW, End(reason, "Why it ended."), 1001.0)
    events = timeline.changed(NEW, over, Cause(actor, 1001.0))
    assert [event.kind for event in events] == kinds
    assert events[0].actor == actor
    assert (events[-1].message, events[-1].reason) == ("Why it ended.", reason)


def test_a_restart_that_relearns_a_call_tells_every_step():
    active = transitions.reported(NEW, "active", None, 1001.0)
    events = timeline.changed(NEW, active, Cause(timeline.MACHINE, 1001.0))
    kinds = [(event.kind, event.state) for event in events]
    assert kinds == [
        ("starting", "starting"),
        ("machine-started", "starting"),
        ("ready", "ready"),
        ("client-connected", "ready"),
        ("active", "active"),
    ]


def test_a_client_that_comes_back_is_seen_twice():
    session, kinds = transitions.reported(NEW, "active", None, 1001.0), []
    for change in (
        lambda current: transitions.client_left(current, 1002.0),
        lambda current: transitions.client_left(current, 1003.0),
        lambda current: transitions.reported(current, "active", None, 1004.0),
    ):
        before, session = session, change(session)
        kinds += [event.kind for event in timeline.changed(before, session, Cause("machine", 1004.0))]
    assert kinds == ["client-disconnected", "client-connected"]
    assert session.state == "active"


def test_the_end_of_the_machine_is_told_once():
    gone = transitions.machine_gone(MACHINE, MachineStatus("m", MachineState.gone, 137), 1001.0)
    cause = Cause(timeline.PROVIDER, 1001.0)
    (event,) = timeline.machine_changed(MACHINE, gone, NEW, cause)
    assert (event.kind, event.message) == (
        "machine-gone",
        "The machine m is gone; its process ended with exit status 137.",
    )
    assert timeline.machine_changed(gone, gone, NEW, cause) == []
    assert timeline.machine_changed(MACHINE, replace(MACHINE, versions={"a": "1"}), NEW, cause) == []


def test_next_placement_is_told_while_the_session_lives():
    cause = Cause(timeline.DISPATCHER, 1001.0)
    near, far = replace(MACHINE, placement="near"), replace(MACHINE, placement="far")
    (event,) = timeline.machine_changed(near, far, NEW, cause)
    assert (event.kind, event.message) == (
        "placement-changed",
        "near gave no machine; far is asked for it.",
    )
    assert timeline.machine_changed(replace(MACHINE, placement=None), near, NEW, cause) == []
    over = replace(NEW, state=SessionState.failed)
    assert timeline.machine_changed(near, far, over, cause) == []
