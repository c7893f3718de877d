"""The Daily domain that the settings name, against the one of the API key."""

import asyncio
import subprocess
import sys

import pytest

from dispatcher.clock import SystemClock
from dispatcher.configured import check_accounts
from dispatcher.settings import AgentSettings, Settings
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, app
from tests.daily.harness import agents, with_daily
from tests.daily.test_bot import BOT
from tests.dispatcher.harness import ManualClock, eventually
from tests.e2e.browser import until
from tests.e2e.dispatcher import CHECKOUT, Dispatcher, agent
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.served import served

OTHER_ID = "11111111-9123-452a-8723-ff58322d09c5"
HIPAA = f"daily_domain (daily.domain) '{DOMAIN}' is a HIPAA domain"

WRONG = {
    "name": ({"DAILY_DOMAIN": "another"}, {}, f"the domain '{DOMAIN}'"),
    "id": ({"DAILY_DOMAIN_ID": OTHER_ID}, {}, f"daily_domain_id (daily.domainId) is '{OTHER_ID}'"),
    "HIPAA": ({}, {"hipaa": True}, HIPAA),
    "key": ({"DAILY_API_KEY": "another-key"}, {}, "daily_api_key (dailyApiKey): Daily refuses: 401"),
}


def dispatcher(directory, url: str, **changed: str) -> Dispatcher:
    more = {
        "DAILY_API_KEY": API_KEY,
        "DAILY_DOMAIN": DOMAIN,
        "DAILY_DOMAIN_ID": DOMAIN_ID,
        "DAILY_API_URL": f"{url}/v1",
    }
    return Dispatcher(directory, {"guest": agent(BOT, transports=["daily"])}, more={**more, **changed})


@pytest.mark.parametrize("what", WRONG)
def test_dispatcher_refuses_to_start_when_domain_is_wrong(tmp_path, what):
    changed, state, words = WRONG[what]
    daily = FakeDaily(SystemClock())
    for name, value in state.items():
        setattr(daily, name, value)
    with served(app(daily)) as url:
        environment = dispatcher(tmp_path, url, **changed).environment()
        done = subprocess.run(
            [sys.executable, "-m", "dispatcher"],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("dispatcher: daily_")
    assert words in done.stderr
    assert API_KEY not in done.stderr


def test_dispatcher_starts_when_daily_is_unreachable(tmp_path):
    running = dispatcher(tmp_path, f"http://127.0.0.1:{free_port()}")
    running.start()
    try:
        until(
            lambda: "the Daily domain is not checked yet" in running.log.read_text(),
            30,
            "a warning that Daily is not reached",
        )
    finally:
        running.stop()


class Standing:
    """A clock that stands still. The check's first sleep bounds its call, the second is between two calls."""

    def __init__(self) -> None:
        self.second_sleep = asyncio.Event()
        self._sleeps = 0

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self._sleeps += 1
        if self._sleeps == 2:
            self.second_sleep.set()
        await asyncio.Event().wait()


async def test_connection_is_closed_when_the_check_is_cancelled():
    """Daily answers 429 and keeps the connection; the check is cancelled while it waits to ask again."""

    clock, closed = Standing(), asyncio.Event()

    async def throttle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        closed.set()
        writer.close()

    async with await asyncio.start_server(throttle, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        given = {"daily_api_key": API_KEY, "daily_domain": DOMAIN, "daily_api_url": f"http://{host}:{port}"}
        settings = Settings.model_validate({"agents": {"guest": AgentSettings(bot=BOT)}, **given})
        checking = asyncio.create_task(check_accounts(settings, clock))
        async with asyncio.timeout(PATIENCE):
            await clock.second_sleep.wait()
            checking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await checking
            await closed.wait()


@pytest.mark.parametrize("state", [{"hipaa": True}, {"domain_id": OTHER_ID}])
async def test_starts_are_refused_until_domain_is_right(tmp_path, caplog, state):
    with caplog.at_level("WARNING"):
        clock = ManualClock()
        daily = FakeDaily(clock)
        daily.fail("GET /", "failed")
        before = {name: getattr(daily, name) for name in state}

        async def looked() -> None:
            """Let time pass until Daily was asked once more, and its answer is heeded."""
            count = len(daily.looks)

            async def pass_time() -> int:
                clock.advance(1)
                return len(daily.looks)

            await eventually(pass_time, lambda looks: looks > count)
            await running.settle()

        async with with_daily(tmp_path, daily, clock) as (running, _):
            for name, value in state.items():
                setattr(daily, name, value)
            await looked()
            answer = await running.http.post("/start?wait=started")
            assert (answer.status_code, answer.json()["code"]) == (502, "room_rejected")
            # Other transports need nothing of it.
            await running.start("/start?wait=started", transport="webrtc")
            for name, value in before.items():
                setattr(daily, name, value)
            await looked()
            await running.start("/start?wait=started")
    assert "sessions over daily are refused: daily_domain" in caplog.text


@pytest.mark.parametrize(
    ("properties", "config"),
    [
        ({"enable_recording": "cloud"}, {"enable_recording": "cloud"}),
        ({"enable_recording": "cloud-audio-only"}, {"enable_recording": "cloud-audio-only"}),
        ({"enable_dialout": True}, {"enable_dialout": True}),
    ],
)
async def test_room_has_what_agent_allows(tmp_path, properties, config):
    allowed = agents(daily_allowed_properties=tuple(properties))
    async with with_daily(tmp_path, agents=allowed) as (running, daily):
        await running.start("/start?wait=started", dailyRoomProperties=properties)
        await eventually(lambda: asyncio.sleep(0, daily.rooms), bool)
        (room,) = daily.rooms.values()
        assert config.items() <= room["config"].items()


@pytest.mark.parametrize("name", ["enable_recording", "enable_dialout", "exp"])
async def test_property_is_refused_by_name_when_agent_does_not_allow_it(tmp_path, name):
    async with with_daily(tmp_path) as (running, daily):
        answer = await running.http.post("/start", json={"dailyRoomProperties": {name: "cloud"}})
        assert answer.status_code == 400
        assert f"dailyRoomProperties.{name}" in answer.json()["detail"]
        assert "dailyAllowedProperties" in answer.json()["detail"]
        assert daily.calls == []


@pytest.mark.parametrize(("after", "kept"), [(600, True), (10**6, False), (-5, None)])
async def test_room_closes_at_exp_of_request_and_with_its_session_at_the_latest(tmp_path, after, kept):
    clock = ManualClock()
    async with with_daily(tmp_path, clock=clock, agents=agents(daily_allowed_properties=("exp",))) as (
        running,
        daily,
    ):
        exp = int(clock.now()) + after
        answer = await running.http.post("/start?wait=started", json={"dailyRoomProperties": {"exp": exp}})
        if kept is None:
            assert answer.status_code == 400
            assert "dailyRoomProperties.exp" in answer.json()["detail"]
            return
        assert answer.status_code == 200
        await eventually(lambda: asyncio.sleep(0, daily.rooms), bool)
        (room,) = daily.rooms.values()
        assert (room["config"]["exp"] == exp) is kept
        assert room["config"]["exp"] <= exp


async def test_exp_that_never_comes_is_refused(tmp_path):
    async with with_daily(tmp_path, agents=agents(daily_allowed_properties=("exp",))) as (running, daily):
        content = b'{"dailyRoomProperties": {"exp": 1e999}}'
        headers = {"Content-Type": "application/json"}
        answer = await running.http.post("/start", content=content, headers=headers)
        assert answer.status_code == 400
        assert "finite" in answer.json()["detail"]
        assert daily.calls == []


async def test_exp_that_passes_in_the_queue_is_told_as_such(tmp_path):
    clock = ManualClock()
    more = agents(daily_allowed_properties=("exp",), max_sessions=1, client_timeout_seconds=600)
    async with with_daily(tmp_path, clock=clock, agents=more) as (running, daily):
        first = await running.start("/start?wait=started")
        exp = int(clock.now()) + 60
        waiting = await running.start("/start?wait=none&queue=300", dailyRoomProperties={"exp": exp})
        clock.advance(61)
        await running.http.delete(f"/sessions/{first['sessionId']}")
        second = await running.until(waiting["sessionId"], "failed")
        assert second["reason"] == "room_rejected"
        assert "dailyRoomProperties.exp had passed when the session's turn came" in second["message"]
        assert len(daily.rooms) <= 1


async def test_property_that_plan_lacks_is_named_when_daily_refuses_it(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        daily.paid = False
        answer = await running.http.post("/start", json={"dailyRoomProperties": {"max_participants": 2}})
        assert (answer.status_code, answer.json()["code"]) == (502, "room_rejected")
        assert "dailyRoomProperties.max_participants" in answer.json()["detail"]


async def test_room_has_no_prejoin_page_unless_request_wants_it(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        for wanted in ({}, {"enable_prejoin_ui": True}):
            await running.start("/start?wait=started", dailyRoomProperties=wanted)
        await eventually(lambda: asyncio.sleep(0, daily.rooms), lambda rooms: len(rooms) == 2)
        shown = [room["config"]["enable_prejoin_ui"] for room in daily.rooms.values()]
        assert shown == [False, True]
