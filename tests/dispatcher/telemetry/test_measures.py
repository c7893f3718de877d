"""Measures of a session's change, as values."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.protocol import EndReason, Phase
from dispatcher.domain import transitions
from dispatcher.domain.errors import SessionError
from dispatcher.domain.model import End, Session, SessionState
from dispatcher.telemetry import refusals
from dispatcher.telemetry.measures import END_REASONS, OTHER, Measured, measured
from dispatcher.version import VERSION
from tests.dispatcher.rows import rows
from tests.reasons import reasons_in_code

NEW, _ = rows("s")

changes = st.one_of(
    st.just(transitions.admitted),
    st.just(transitions.started),
    st.sampled_from(get_args(Phase)).map(
        lambda phase: lambda session, now: transitions.reported(session, phase, None, now)
    ),
    st.just(transitions.client_left),
    st.floats(0, 1e4).map(lambda ms: lambda session, now: transitions.turn(session, ms, now)),
    st.floats(0, 1e4).map(lambda ms: lambda session, now: transitions.first_word(session, ms)),
    st.sampled_from(["completed", "stopped", "bot_error"]).map(
        lambda reason: lambda session, now: transitions.over(session, End(reason, "Why."), now)
    ),
)


@given(st.lists(changes))
def test_a_session_counts_once_whatever_happens(history):
    session, told = NEW, list(measured(None, NEW))
    for now, change in enumerate(history, start=1001):
        before, session = session, change(session, float(now))
        told += measured(before, session)
        assert list(measured(session, session)) == []
    by_measure = {name: [one for one in told if one.measure == name] for name in ("starts", "ends", "start")}
    assert len(by_measure["ends"]) == session.over
    assert len(by_measure["starts"]) == (session.over or session.ready_at is not None)
    assert len(by_measure["start"]) == (session.ready_at is not None)
    phases = [one for one in told if one.measure == "phase"]
    assert len({one.kind for one in phases}) == len(phases)
    assert all(one.value >= 0 for one in told)
    reached = max((at for at in _moments(session) if at is not None), default=NEW.created_at)
    assert sum(one.value for one in phases) == pytest.approx(reached - NEW.created_at)


def _moments(session: Session) -> list[float | None]:
    return [
        session.admitted_at,
        session.started_at,
        session.waiting_at,
        session.ready_at,
        session.active_at,
    ]


def test_a_clock_that_goes_back_measures_nothing_below_zero():
    session = transitions.admitted(NEW, 900.0)
    assert list(measured(NEW, session)) == [Measured("phase", 0.0, "queued")]


def test_a_reason_that_is_not_known_makes_no_series_of_its_own():
    over = replace(NEW, state=SessionState.failed, ended_at=1001.0, reason="sunspots")
    assert {one.kind for one in measured(NEW, over)} == {OTHER}


def test_the_reasons_are_all_that_the_code_gives():
    assert reasons_in_code() == END_REASONS


def test_every_error_of_a_start_is_a_refusal_or_belongs_to_a_session():
    about_a_session = {
        "UnknownSession",
        "SessionOver",
        "StartFailed",
        "NotStarted",
        "TookTooLong",
        "TooManyCalls",
    }
    for kind in SessionError.__subclasses__():
        refused = any(issubclass(kind, known) for known in refusals.OUTCOMES)
        assert refused != (kind.__name__ in about_a_session), kind


def test_a_narrower_error_counts_under_its_own_outcome():
    from dispatcher.domain.errors import AtCapacity, StartFailed, UnknownAgent

    assert refusals.outcome(UnknownAgent("?")) == "unknown_agent"
    assert refusals.outcome(AtCapacity("full")) == "at_capacity"
    assert refusals.outcome(StartFailed("no")) is None


def test_the_version_is_the_one_of_the_project():
    project = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    assert f'version = "{VERSION}"' in project


def test_bots_give_reasons_that_are_known():
    assert set(get_args(EndReason)) <= END_REASONS
