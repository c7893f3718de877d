"""A real dispatcher, real machines as processes, and Daily's API on loopback."""

import json
from pathlib import Path

import httpx
import pytest

from dispatcher.clock import SystemClock
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, app
from tests.daily.harness import room_of
from tests.e2e.browser import until
from tests.e2e.dispatcher import Dispatcher, agent
from tests.served import served

BOT = Path(__file__).parent / "bots" / "guest.py"


@pytest.mark.parametrize("padding", [0, 5000], ids=["in arguments", "over the channel"])
def test_an_unmodified_daily_bot_gets_its_room_as_its_argument(tmp_path, padding):
    daily = FakeDaily(SystemClock())
    with served(app(daily)) as url:
        more = {
            "DAILY_API_KEY": API_KEY,
            "DAILY_DOMAIN": DOMAIN,
            "DAILY_DOMAIN_ID": DOMAIN_ID,
            "DAILY_API_URL": f"{url}/v1",
        }
        agents = {"guest": agent(BOT, transports=["daily"], startTimeoutSeconds=120)}
        dispatcher = Dispatcher(tmp_path, agents, forks=False, more=more)
        dispatcher.start()
        try:
            seen = tmp_path / "seen.json"
            body = {"createDailyRoom": True, "body": {"seen": str(seen), "padding": "x" * padding}}
            answer = httpx.post(f"{dispatcher.url}/start", json=body, timeout=130)
            assert answer.status_code == 200, answer.text
            started = answer.json()
            room = room_of(started["sessionId"])

            # The answer came when the bot said that it was in the room.
            session = httpx.get(f"{dispatcher.url}/sessions/{started['sessionId']}").json()
            assert session["state"] == "ready"
            told = until(
                lambda: seen.exists() and json.loads(seen.read_text() or "null"), 10, "the bot's word"
            )
            assert told["room"] == started["dailyRoom"] == daily.rooms[room]["url"]
            assert told["body"] == body["body"]
            bot, client = (daily.admits(room, token) for token in (told["token"], started["dailyToken"]))
            assert bot is not None
            assert client is not None
            assert (bot["is_owner"], client["is_owner"]) == (True, False)

            httpx.delete(f"{dispatcher.url}/sessions/{started['sessionId']}", timeout=30)
            until(lambda: not daily.rooms, 30, "the room is deleted")
            assert API_KEY not in dispatcher.log.read_text()
        finally:
            dispatcher.stop()
