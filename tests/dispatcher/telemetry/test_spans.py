"""The spans of a session, as values."""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.protocol import Phase, Timings
from dispatcher.domain import transitions
from dispatcher.domain.model import End
from dispatcher.telemetry.spans import Piece, told
from tests.dispatcher.rows import rows

NEW, _ = rows("s")
STARTED = transitions.started(transitions.admitted(NEW, 1001.0), 1002.0)

marks = st.builds(
    Timings,
    **{name: st.none() | st.floats(0, 60_000) for name in Timings.model_fields},
)


def ready(timings: Timings) -> list[Piece]:
    after = transitions.reported(STARTED, "ready", timings.model_dump(exclude_none=True), 1010.0)
    return [piece for piece in told(STARTED, after) if piece.name == "bot"]


def test_a_machine_of_an_older_release_has_its_pipelines_start_for_its_ready():
    (bot,) = ready(Timings(imported=1000, loaded=2000, pipeline=4000))
    assert (bot.since, bot.until) == (1006.0, 1010.0)
    assert [(part.name, part.since, part.until) for part in bot.parts] == [
        ("bot boot", 1006.0, 1007.0),
        ("bot import", 1007.0, 1008.0),
        ("bot pipeline", 1008.0, 1010.0),
    ]


def test_a_machine_that_reports_no_times_has_no_span_of_its_own():
    assert ready(Timings()) == []


@given(marks)
def test_what_a_machine_did_lies_within_its_own_span_whatever_it_reports(timings):
    for bot in ready(timings):
        assert bot.until == 1010.0
        for part in bot.parts:
            assert bot.since - 1e-6 <= part.since
            assert part.until <= bot.until + 1e-6
        assert all(bot.since - 1e-6 <= at <= bot.until + 1e-6 for _, at in bot.events)


@pytest.mark.parametrize(
    ("session", "phase", "since"),
    [
        (NEW, "queued", 1000.0),
        (transitions.admitted(NEW, 1001.0), "machine", 1001.0),
        (STARTED, "boot", 1002.0),
        (transitions.reported(STARTED, "waiting", None, 1003.0), "pipeline", 1003.0),
        (transitions.reported(STARTED, "ready", None, 1004.0), "client", 1004.0),
        (transitions.reported(STARTED, "active", None, 1005.0), "conversation", 1005.0),
    ],
)
def test_the_end_closes_the_phase_that_the_session_was_in(session, phase, since):
    after = transitions.over(session, End("bot_error", "The bot raised."), 1020.0)
    (piece,) = told(session, after)
    assert (piece.name, piece.since, piece.until) == (phase, since, 1020.0)
    assert piece.error == "The bot raised."
    assert piece.attributes == {"switchboard.reason": "bot_error"}


def test_a_good_end_is_no_error():
    (piece,) = told(STARTED, transitions.over(STARTED, End("stopped", "Enough."), 1020.0))
    assert piece.error is None


@given(st.lists(st.sampled_from(get_args(Phase))))
def test_the_phases_follow_one_another_without_a_gap(history):
    session, pieces = NEW, []
    for now, phase in enumerate(history, start=1001):
        before, session = session, transitions.reported(session, phase, None, float(now))
        pieces += [piece for piece in told(before, session) if piece.name != "bot"]
    before, session = session, transitions.over(session, End("completed", "Bye."), 2000.0)
    pieces += told(before, session)
    assert [piece.since for piece in pieces] == [1000.0, *(piece.until for piece in pieces[:-1])]
    assert pieces[-1].until == 2000.0
    assert len({piece.name for piece in pieces}) == len(pieces)


def test_the_first_word_is_told_once():
    active = transitions.reported(STARTED, "active", None, 1005.0)
    spoke = transitions.first_word(active, 300)
    (piece,) = told(active, spoke)
    assert (piece.name, piece.since, round(piece.until, 3)) == ("first word", 1005.0, 1005.3)
    assert list(told(spoke, replace(spoke, first_word_ms=400.0))) == []
