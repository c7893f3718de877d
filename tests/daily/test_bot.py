"""A real dispatcher, machines as processes, Pipecat's own DailyTransport, and Daily's API on loopback."""

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bot import outcome
from dispatcher.clock import SystemClock
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, app
from tests.daily.harness import room_of
from tests.e2e.browser import until
from tests.e2e.dispatcher import Dispatcher, agent
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.served import served

HERE = Path(__file__).parent
BOT = HERE / "bots" / "guest.py"
STUB = str(HERE / "stub")

NO_NETWORK_SECONDS = 60
"""daily-python gives up a room that it cannot look up after some 20 s."""


@dataclass
class Stack:
    """A dispatcher, and the fake that it uses."""

    dispatcher: Dispatcher
    daily: FakeDaily
    url: str
    """URL of the fake."""

    def start(self, room: dict[str, Any] | None = None, **body: Any) -> httpx.Response:
        asked = {} if room is None else {"dailyRoomProperties": room}
        content = {"createDailyRoom": True, **asked, "body": {"stub": STUB, "daily": self.url, **body}}
        return httpx.post(f"{self.dispatcher.url}/start", json=content, timeout=PATIENCE)

    def only_session(self) -> dict[str, Any]:
        (listed,) = self.dispatcher.request("GET", "/v1/sessions")["sessions"]
        return self.dispatcher.session(listed["sessionId"])

    @contextlib.contextmanager
    def client(self, started: dict[str, Any]) -> Iterator[None]:
        """The session's client is in its room."""
        body = {"room": room_of(started["sessionId"]), "token": started["dailyToken"]}
        with httpx.stream("POST", f"{self.url}/join", json=body, timeout=PATIENCE) as answer:
            # An iterator that nobody holds closes the answer, and with it the client is out of its room.
            lines = answer.iter_lines()
            assert "joined" in json.loads(next(lines))
            yield


@contextlib.contextmanager
def stack(directory: Path, daily: FakeDaily | None = None, **settings: Any) -> Iterator[Stack]:
    daily = daily or FakeDaily(SystemClock())
    with served(app(daily)) as url:
        more = {
            "DAILY_API_KEY": API_KEY,
            "DAILY_DOMAIN": DOMAIN,
            "DAILY_DOMAIN_ID": DOMAIN_ID,
            "DAILY_API_URL": f"{url}/v1",
        }
        agents = {"guest": agent(BOT, transports=["daily"], **{"startTimeoutSeconds": 120, **settings})}
        dispatcher = Dispatcher(directory, agents, forks=False, more=more)
        dispatcher.start()
        try:
            yield Stack(dispatcher, daily, url)
        finally:
            dispatcher.stop()


@pytest.mark.parametrize("padding", [0, 5000], ids=["in arguments", "over the channel"])
def test_an_unmodified_daily_bot_gets_its_room_as_its_argument(tmp_path, padding):
    # Not beside the dispatcher's data, where a bot makes no files.
    seen = tmp_path / "seen" / "seen.json"
    seen.parent.mkdir()
    with stack(tmp_path) as running:
        answer = running.start(seen=str(seen), padding="x" * padding)
        assert answer.status_code == 200, answer.text
        started, daily = answer.json(), running.daily
        room = room_of(started["sessionId"])

        # The answer came when the bot said that it was in the room.
        assert running.dispatcher.session(started["sessionId"])["state"] == "ready"
        assert len(daily.meetings.of(room)) == 1
        told = json.loads(seen.read_text())
        assert told["room"] == started["dailyRoom"] == daily.rooms[room]["url"]
        assert told["body"]["padding"] == "x" * padding
        bot, client = (daily.admits(room, token) for token in (told["token"], started["dailyToken"]))
        assert bot is not None
        assert client is not None
        assert (bot["is_owner"], client["is_owner"]) == (True, False)

        httpx.delete(f"{running.dispatcher.url}/sessions/{started['sessionId']}", timeout=PATIENCE)
        until(lambda: not daily.rooms, PATIENCE, "the room is deleted")
        assert API_KEY not in running.dispatcher.log.read_text()


def test_join_is_refused_at_once_when_account_has_no_card(tmp_path):
    with stack(tmp_path) as running:
        running.daily.card = False
        answer = running.start()
        assert (answer.status_code, answer.json()["code"]) == (502, "join_refused")
        assert "account-missing-payment-method" in answer.json()["detail"]
        session = running.only_session()
        assert (session["state"], session["reason"]) == ("failed", "join_refused")
        assert session["message"] == "Daily refused the bot's join: account-missing-payment-method."
        assert "add a card" in session["detail"]
        assert "Before the first call" in session["detail"]
        until(lambda: not running.daily.rooms, PATIENCE, "the room is deleted")


def test_join_is_refused_when_tokens_are_another_domains(tmp_path):
    daily = FakeDaily(SystemClock())
    with stack(tmp_path, daily) as running:
        # The account's domain changes after the dispatcher looked: that look is answered before ours.
        until(lambda: daily.looks, PATIENCE, "the dispatcher looks")
        httpx.get(f"{running.url}/v1/", timeout=PATIENCE)
        daily.domain_id = "11111111-9123-452a-8723-ff58322d09c5"
        answer = running.start()
        assert (answer.status_code, answer.json()["code"]) == (502, "join_refused")
        session = running.only_session()
        assert session["message"] == "Daily refused the bot's join: not-allowed."
        assert "daily.domainId" in session["detail"]


def test_idle_timeout_ends_session_when_client_left_the_room(tmp_path):
    with stack(tmp_path, idleTimeoutSeconds=2) as running:
        started = running.start().json()
        session_id = started["sessionId"]
        room = room_of(session_id)
        with running.client(started):
            until(
                lambda: running.dispatcher.session(session_id)["state"] == "active",
                PATIENCE,
                "a client",
            )
            # As long as the timeout is, and longer: nobody is idle while the client is there.
            time.sleep(3)
            assert len(running.daily.meetings.of(room)) == 2
            assert running.dispatcher.session(session_id)["state"] == "active"
        with running.client(started):
            pass
        record = running.dispatcher.wait_until_over(session_id, 30)
        assert (record["state"], record["reason"]) == ("failed", "idle_timeout")
        events = running.dispatcher.request("GET", f"/v1/sessions/{session_id}/events")["events"]
        kinds = [one["event"] for one in events]
        assert "client-disconnected" in kinds


def test_session_ends_when_bot_is_put_out_of_its_room(tmp_path):
    with stack(tmp_path) as running:
        started = running.start().json()
        headers = {"Authorization": f"Bearer {API_KEY}"}
        room = room_of(started["sessionId"])
        assert httpx.delete(f"{running.url}/v1/rooms/{room}", headers=headers).status_code == 200
        record = running.dispatcher.wait_until_over(started["sessionId"], 20)
        assert (record["state"], record["reason"]) == ("failed", "bot_error")
        assert record["message"].startswith("Daily ended the bot's call")


def test_session_has_its_length_when_room_closes_at_the_exp_that_was_asked_for(tmp_path):
    with stack(tmp_path, dailyAllowedProperties=["exp"]) as running:
        exp = time.time() + 20
        started = running.start(room={"exp": exp}).json()
        record = running.dispatcher.wait_until_over(started["sessionId"], 60)
        assert (record["state"], record["reason"]) == ("failed", "max_duration")
        assert record["message"] == "The room closed at its `exp`, as the start request asked for."
        # Whichever was first.
        assert record["detail"].startswith(("Daily ended the bot's call", "The session reached its maximum"))


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("meeting-full", "max_participants"),
        ("Meeting is full", "max_participants"),
        ("exp-token", "clock"),
        ("exp-room", "over"),
        ("not-allowed", "daily.domainId"),
        ("account-missing-payment-method", "add a card"),
        ("Connection failure: RoomLookup(error sending request)", "DNS"),
        ("words of next year", "Before the first call"),
    ],
)
def test_refused_joins_advice_fits_its_words(words, advice):
    told = outcome.join_refused(words)
    assert told.message == f"Daily refused the bot's join: {words}."
    assert advice in told.detail
    assert ("domainId" in told.detail) == (words == "not-allowed")


@pytest.mark.skipif(importlib.util.find_spec("daily") is None, reason="daily-python is not installed")
def test_join_is_refused_in_words_of_daily_python(tmp_path):
    with stack(tmp_path) as running:
        body = {"proxy": f"http://127.0.0.1:{free_port()}"}
        content = {"createDailyRoom": True, "body": body}
        answer = httpx.post(f"{running.dispatcher.url}/start", json=content, timeout=NO_NETWORK_SECONDS)
        assert (answer.status_code, answer.json()["code"]) == (502, "join_refused")
        assert "RoomLookup" in running.only_session()["message"]
