"""The states of rooms: pure."""

from dataclasses import replace

import pytest

from dispatcher.domain import deadlines, ends, transitions
from dispatcher.domain.deadlines import ROOM_SETTLING_SECONDS
from dispatcher.domain.model import End, Session, SessionState

ADMITTED_AT, ENDED_AT = 1000.0, 1005.0
SETTLED_AT = ADMITTED_AT + 30 + ROOM_SETTLING_SECONDS
CLOSES_AT = ADMITTED_AT + 7200 + 15


def session(room_state, *, over: bool = True, **more) -> Session:
    live = Session(
        id="s",
        agent="echo",
        transport="daily",
        body=None,
        ice_servers=[],
        machine_id="m-s",
        state=SessionState.starting,
        start_timeout_seconds=30,
        client_timeout_seconds=60,
        max_duration_seconds=7200,
        created_at=ADMITTED_AT - 5,
        admitted_at=ADMITTED_AT,
        room={"url": "https://x", "token": "t", "properties": {}},
        room_state=room_state,
    )
    live = replace(live, **more)
    return transitions.over(live, End("stopped", "Stopped."), ENDED_AT) if over else live


@pytest.mark.parametrize(
    ("room_state", "due"),
    [
        (None, None),
        ("wanted", ENDED_AT),
        ("open", ENDED_AT),
        ("found", ENDED_AT),
        ("doubted", SETTLED_AT),
        ("closed", None),
    ],
)
def test_when_a_room_has_to_be_deleted(room_state, due):
    assert deadlines.room_due(session(room_state)) == due
    assert deadlines.room_due(session(room_state, over=False)) is None


def test_of_a_session_that_never_had_a_line_there_is_no_room():
    ended = session("wanted", admitted_at=None, state=SessionState.queued)
    assert ended.room_state == "closed"
    assert deadlines.room_due(ended) is None


@pytest.mark.parametrize(
    ("before", "now", "asked", "after"),
    [
        ("open", "open", ENDED_AT, "closed"),
        ("found", "found", ENDED_AT, "doubted"),
        ("wanted", "wanted", ENDED_AT, "doubted"),
        # It came while it was being deleted: the deletion may have been the earlier of the two.
        ("wanted", "open", ENDED_AT, "open"),
        ("wanted", "found", ENDED_AT, "doubted"),
        ("doubted", "open", SETTLED_AT - 1, "open"),
        ("doubted", "doubted", SETTLED_AT - 1, "doubted"),
        ("doubted", "doubted", SETTLED_AT, "closed"),
        ("wanted", "wanted", SETTLED_AT, "closed"),
        ("open", "closed", ENDED_AT, "closed"),
    ],
)
def test_what_a_deletion_proves(before, now, asked, after):
    assert transitions.room_deleted(session(now), session(before), asked).room_state == after


@pytest.mark.parametrize(
    ("room_state", "certain", "after"),
    [
        ("wanted", True, "open"),
        ("wanted", False, "found"),
        ("doubted", True, "open"),
        ("open", False, "open"),
        ("closed", True, "closed"),
        (None, True, None),
    ],
)
def test_a_room_that_is_there(room_state, certain, after):
    assert transitions.room_opened(session(room_state), certain=certain).room_state == after


@pytest.mark.parametrize(("room_state", "after"), [("wanted", "closed"), ("found", "found"), (None, None)])
def test_a_room_that_is_certainly_not_there(room_state, after):
    assert transitions.no_room(session(room_state)).room_state == after


def test_a_room_that_closes_by_itself_settles_with_that():
    brief = session("doubted", max_duration_seconds=5)
    assert deadlines.room_due(brief) == deadlines.room_closes_at(brief) == ADMITTED_AT + 20
    assert deadlines.room_closes_at(session("open")) == CLOSES_AT


@pytest.mark.parametrize(
    ("wanted", "seconds"),
    [({}, 7200), ({"exp": ADMITTED_AT + 600}, 600), ({"exp": ADMITTED_AT + 9e9}, 7200), ({"exp": 1.0}, 1.0)],
)
def test_session_is_no_longer_than_its_room(wanted, seconds):
    assert deadlines.allowed_seconds(7200, wanted, ADMITTED_AT) == seconds


@pytest.mark.parametrize(
    ("reason", "now", "told"),
    [
        ("bot_error", ADMITTED_AT + 600, "max_duration"),
        ("bot_error", ADMITTED_AT + 300, "bot_error"),
        ("completed", ADMITTED_AT + 600, "completed"),
    ],
)
def test_bot_that_fails_as_its_room_closes_has_reached_its_maximum(reason, now, told):
    room = {"url": "https://x", "token": "t", "properties": {"exp": ADMITTED_AT + 600}}
    end = End(reason, "Words.", "Detail.", 1)
    seen = ends.end_at_exp(session("open", over=False, room=room), end, now)
    assert seen.reason == told
    assert "Words." in f"{seen.message}{seen.detail}"
    assert seen.exit_code == 1
    assert ends.end_at_exp(session("open", over=False), end, now) == end
