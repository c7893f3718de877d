"""A real dispatcher, real machines as processes, and Daily's API on loopback."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from dispatcher.clock import SystemClock
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, app
from tests.daily.harness import room_of
from tests.e2e.browser import until
from tests.e2e.dispatcher import Dispatcher, agent
from tests.ports import free_port

BOT = Path(__file__).parent / "bots" / "guest.py"


@contextlib.contextmanager
def served(daily: FakeDaily) -> Iterator[str]:
    """The fake on a port; gives the URL of its API."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app(daily), port=port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, 30, "the fake answers")
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.mark.parametrize("padding", [0, 5000], ids=["in arguments", "over the channel"])
def test_an_unmodified_daily_bot_gets_its_room_as_its_argument(tmp_path, padding):
    daily = FakeDaily(SystemClock())
    with served(daily) as url:
        more = {
            "DAILY_API_KEY": API_KEY,
            "DAILY_DOMAIN": DOMAIN,
            "DAILY_DOMAIN_ID": DOMAIN_ID,
            "DAILY_API_URL": url,
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
