"""The checks of a Daily account, against the fake of Daily's API with a real dispatcher beside it."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.clock import SystemClock
from dispatcher.transports.daily.webhooks import derived_secret
from stacks.errors import SmokeError
from stacks.smoke import daily_account
from stacks.smoke.daily_account import Account, Checks, Limits, check, check_stack
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, app
from tests.daily.harness import KEYS, agents
from tests.daily.meetings import JoinRefused, Meetings
from tests.dispatcher.harness import ManualClock, deployment
from tests.served import served
from tests.stacks.test_daily_webhook import Stack

STUB = Path(__file__).parents[2] / "daily" / "stub"
LIMITS = Limits(join=20, event=20, short_exp=2)


@pytest.fixture(autouse=True)
def stand_in_for_daily_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "daily", raising=False)
    monkeypatch.syspath_prepend(str(STUB))


def lines_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    daily: FakeDaily,
    domain_id: str | None = DOMAIN_ID,
    url: str | None = None,
) -> tuple[dict[str, str], str]:
    """Return what each check says, and what the whole of them raises.

    Args:
        url: In the place of the dispatcher's.
    """
    lines: list[str] = []

    async def run(api: str) -> str:
        settings = {**KEYS, "daily_api_url": f"{api}/v1", "agents": agents()}
        clock = ManualClock()
        # The messages that it checks are of now.
        clock.is_set(time.time() - clock.now())
        async with deployment(tmp_path, clock=clock, **settings) as running:
            account = Account(API_KEY, DOMAIN, domain_id, f"{api}/v1", derived_secret(API_KEY))
            try:
                await asyncio.to_thread(check, account, url or running.url, lines.append, LIMITS)
            except SmokeError as error:
                return str(error)
        return ""

    with served(app(daily)) as api:
        monkeypatch.setenv("DAILY_STUB_URL", api)
        raised = asyncio.run(run(api))
    parts: list[list[str]] = [line.removeprefix("  daily: ").split(": ", 1) for line in lines]
    return dict(parts), raised


def test_account_that_works_passes_every_check(tmp_path, monkeypatch):
    daily = FakeDaily(SystemClock())
    said, raised = lines_of(tmp_path, monkeypatch, daily)
    assert raised == "", said
    assert len(said) == 11
    assert said["domain and id"] == f"{DOMAIN}, {DOMAIN_ID}"
    assert said["a join without a token"].endswith(": not-allowed")
    assert said["a join with another room's token"].endswith(": not-allowed")
    assert said["a room that is deleted while occupied"].startswith("who was in it is out")
    assert said["a webhook through the stack's proxy"].endswith("`make daily-webhook` makes it")
    assert "then 429: rate-limit-error" in said["deletes beyond the rate"]
    assert daily.rooms == {}
    assert daily.meetings.seats == []


@pytest.mark.parametrize(
    ("state", "domain_id", "what", "words"),
    [
        ({"card": False}, DOMAIN_ID, "joins with signed tokens", "account-missing-payment-method"),
        ({"hipaa": True}, DOMAIN_ID, "domain and id", "HIPAA"),
        ({}, "another-id", "domain and id", "daily.domainId"),
    ],
)
def test_account_is_refused_by_check_that_fails(tmp_path, monkeypatch, state, domain_id, what, words):
    daily = FakeDaily(SystemClock())
    for name, value in state.items():
        setattr(daily, name, value)
    said, raised = lines_of(tmp_path, monkeypatch, daily, domain_id)
    assert "of the checks of Daily failed" in raised
    assert said[what].startswith("FAILED")
    assert words in said[what]
    assert daily.rooms == {}


def test_refused_joins_say_nothing_when_no_join_is_let_in(tmp_path, monkeypatch):
    daily = FakeDaily(SystemClock())
    daily.card = False
    said, raised = lines_of(tmp_path, monkeypatch, daily)
    assert raised
    for what in ("a join without a token", "a join with another room's token"):
        assert said[what] == "FAILED: bot and client are not in the room"


def test_join_that_daily_did_not_refuse_itself_is_no_refusal(tmp_path, monkeypatch):
    monkeypatch.setattr(Meetings, "_admit", lost_after(Meetings._admit, joins=2))
    said, raised = lines_of(tmp_path, monkeypatch, FakeDaily(SystemClock()))
    assert raised
    assert said["joins with signed tokens"].startswith("bot")
    assert said["a join without a token"].startswith("FAILED: it had no answer of Daily's: Connection")


def lost_after(admit: Callable[..., Any], joins: int) -> Callable[..., Any]:
    """Admit so many participants; of every other one daily-python says that it reaches nobody."""
    left = itertools.count(joins, -1)

    def admitted(meetings: Meetings, name: str, token: str | None) -> Any:
        if next(left) <= 0:
            raise JoinRefused("Connection failure: RoomLookup(error sending request)")
        return admit(meetings, name, token)

    return admitted


def test_room_without_the_exp_that_was_asked_for_is_named(tmp_path, monkeypatch):
    daily = FakeDaily(SystemClock())
    daily.forgets = frozenset({"exp"})
    said, raised = lines_of(tmp_path, monkeypatch, daily)
    assert raised
    assert said["a room's config"].startswith("FAILED: asked for {'exp': ")


@pytest.mark.parametrize(("transports", "is_checked"), [(["webrtc"], False), (["daily"], True)])
def test_stack_is_checked_when_it_has_rooms_at_daily(monkeypatch, transports, is_checked):
    monkeypatch.setenv("DAILY_API_KEY", API_KEY)
    asked: list[tuple[Account, str]] = []
    monkeypatch.setattr(daily_account, "check", lambda account, url, _out: asked.append((account, url)))
    check_stack(Stack("https://voice.example", transports), "https://voice.example", print)  # type: ignore[arg-type]
    secret = derived_secret(API_KEY)
    expected = Account(API_KEY, "acme", None, "https://api.daily.co/v1", secret)
    assert asked == ([(expected, "https://voice.example")] if is_checked else [])


def test_joins_are_not_checked_without_daily_python(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said, raised = lines_of(tmp_path, monkeypatch, FakeDaily(SystemClock()))
    assert raised == ""
    assert said["joins with signed tokens"].startswith("not checked; ")


@pytest.fixture
def without_daily_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("without_daily_python")
def test_room_is_deleted_when_the_answer_to_its_creation_is_lost(tmp_path, monkeypatch):
    daily = FakeDaily(SystemClock())
    daily.fail("POST /rooms", "lost reply")
    said, raised = lines_of(tmp_path, monkeypatch, daily)
    assert raised == "1 of the checks of Daily failed", said
    assert said["a room's config"] == "FAILED: POST /rooms: 502, and no JSON"
    assert daily.rooms == {}


@pytest.mark.usefixtures("without_daily_python")
@pytest.mark.parametrize("fault", ["failed", "lost request", "garbage"])
def test_room_that_is_not_deleted_is_named(tmp_path, monkeypatch, fault):
    daily = FakeDaily(SystemClock())
    daily.fail("DELETE /rooms", fault)
    said, raised = lines_of(tmp_path, monkeypatch, daily)
    assert raised == "1 of the checks of Daily failed", said
    assert "left behind: room switchboard-smoke-" in said["deletes beyond the rate"]


@pytest.mark.usefixtures("without_daily_python")
def test_checks_go_on_when_the_proxy_does_not_answer(tmp_path, monkeypatch):
    daily = FakeDaily(SystemClock())
    said, raised = lines_of(tmp_path, monkeypatch, daily, url="http://127.0.0.1:1")
    assert raised == "1 of the checks of Daily failed", said
    assert said["a webhook through the stack's proxy"].startswith(
        "FAILED: http://127.0.0.1:1/webhooks/daily: no"
    )
    assert "deletes beyond the rate" in said
    assert daily.rooms == {}


def test_checks_go_on_when_answers_are_of_another_form():
    lines: list[str] = []
    http = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=[])))
    account = Account(API_KEY, DOMAIN, DOMAIN_ID, "https://daily", derived_secret(API_KEY))
    assert Checks(account, "https://voice.example", None, LIMITS, http).run(lines.append) > 2
    assert lines[0].startswith("  daily: domain and id: FAILED: what came is not as documented: ")
    assert lines[-1] == "  daily: deletes beyond the rate: all 60 were answered"
