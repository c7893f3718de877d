"""Starting sessions whose bot and client meet in a Daily room, over HTTP."""

import asyncio
import json
from itertools import pairwise

import jwt
import pytest

from bot import protocol
from dispatcher.machines.provider import NoCapacity
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily
from tests.daily.harness import agents, room_of, until_rooms_are_looked_after, with_daily
from tests.dispatcher.harness import START_OF_TIME, ManualClock, ScriptedProvider, eventually, pass_time

SESSION_SECONDS = 7200 + 15
"""The longest that a session of the agent lives, from its admission."""

SESSION_ENDS_AT = int(START_OF_TIME) + SESSION_SECONDS


def arguments(running, session_id: str) -> dict[str, str]:
    return dict(pairwise(running.provider.specs[f"m-{session_id}"].arguments))


async def test_start_opens_a_private_room_that_ends_with_the_session_with_two_tokens(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        started = await running.start("/start?wait=started")
        session_id = started["sessionId"]
        assert started.keys() == {"sessionId", "sessionToken", "fileUploadUrl", "dailyRoom", "dailyToken"}
        assert started["dailyRoom"] == f"https://{DOMAIN}.daily.co/{room_of(session_id)}"

        room = daily.rooms[room_of(session_id)]
        assert room["url"] == started["dailyRoom"]
        assert room["privacy"] == "private"
        ends_at = START_OF_TIME + SESSION_SECONDS
        assert room["config"] == {"enable_prejoin_ui": False, "exp": ends_at, "eject_at_room_exp": True}

        client = daily.admits(room_of(session_id), started["dailyToken"])
        told = arguments(running, session_id)
        bot = daily.admits(room_of(session_id), told["--token"])
        assert told["--room-url"] == started["dailyRoom"]
        assert told["--transport"] == "daily"
        known = {"room_name": room_of(session_id), "domain_id": DOMAIN_ID, "iat": int(START_OF_TIME)}
        assert client == {**known, "exp": ends_at, "is_owner": False}
        assert bot == {**known, "exp": ends_at, "is_owner": True}
        assert [call.words for call in daily.calls] == ["POST /rooms"]


def claims_of(token: str) -> dict[str, object]:
    return jwt.decode(token, API_KEY, algorithms=["HS256"], options={"verify_exp": False})


@pytest.mark.parametrize("domain_id", [DOMAIN_ID, None], ids=["signed here", "signed by Daily"])
async def test_the_claims_of_both_tokens_are_dailys(tmp_path, domain_id):
    """Their names are Daily's abbreviations: a claim that it does not know it does not heed."""

    async with with_daily(tmp_path, daily_domain_id=domain_id) as (running, _):
        wanted = {
            "user_name": "Ada",
            "user_id": "u-1",
            "lang": "pt-BR",
            "close_tab_on_exit": True,
            "enable_screenshare": False,
            "start_audio_off": True,
            "start_video_off": True,
        }
        started = await running.start("/start?wait=started", dailyMeetingTokenProperties=wanted)
        room = room_of(started["sessionId"])
        known = {"r": room, "d": DOMAIN_ID, "exp": SESSION_ENDS_AT, "iat": int(START_OF_TIME)}
        bot = claims_of(arguments(running, started["sessionId"])["--token"])
        assert bot == {**known, "o": True}
        given = {
            "u": "Ada",
            "ud": "u-1",
            "uil": "pt-BR",
            "ctoe": True,
            "ss": False,
            "ao": True,
            "vo": True,
        }
        assert claims_of(started["dailyToken"]) == {**known, **given, "o": False}


@pytest.mark.parametrize("body", [{"createDailyRoom": True}, {"transport": "daily"}])
async def test_pipecat_clouds_ways_of_asking_for_daily(tmp_path, body):
    transports = {"echo": agents()["echo"].model_copy(update={"transports": ("webrtc", "daily")})}
    async with with_daily(tmp_path, agents=transports) as (running, daily):
        started = await running.start("/start?wait=started", **body)
        assert room_of(started["sessionId"]) in daily.rooms
        assert "dailyRoom" not in await running.start("/start?wait=started", transport="webrtc")


async def test_without_the_domains_id_daily_signs_the_tokens(tmp_path):
    async with with_daily(tmp_path, daily_domain_id=None) as (running, daily):
        wanted = {"user_name": "Ada", "start_video_off": True}
        started = await running.start("/start?wait=started", dailyMeetingTokenProperties=wanted)
        room = room_of(started["sessionId"])
        bot = daily.admits(room, arguments(running, started["sessionId"])["--token"])
        client = daily.admits(room, started["dailyToken"])
        assert bot is not None
        assert client is not None
        assert (bot["is_owner"], client["is_owner"]) == (True, False)
        assert client.items() >= wanted.items()
        assert len(daily.called("POST /meeting-tokens")) == 2


async def test_a_start_that_is_refused_costs_daily_no_call(tmp_path):
    more = {"daily_domain_id": None, "agents": agents(max_sessions=1, max_queued=1, max_queue_seconds=60)}
    async with with_daily(tmp_path, **more) as (running, daily):
        await running.start("/start?wait=started")
        before = len(daily.calls)
        assert (await running.http.post("/start")).status_code == 429
        assert len(daily.calls) == before
        await running.start("/start?wait=none&queue=60")
        assert len(daily.called("POST /meeting-tokens")) == 4, "one that may wait has a place"
        before = len(daily.calls)
        assert (await running.http.post("/start?wait=none&queue=60")).status_code == 429
        assert len(daily.calls) == before


@pytest.mark.parametrize(
    ("fault", "status", "code", "retry_after"),
    [
        (("throttled",) * 20, 503, "room_throttled", True),
        (("failed",), 503, "room_unreachable", True),
        (("garbage",), 503, "room_unreachable", True),
        (("refused",), 502, "room_rejected", False),
    ],
)
async def test_tokens_that_daily_does_not_sign_are_an_answer_and_leave_nothing(
    tmp_path, fault, status, code, retry_after
):
    async with with_daily(tmp_path, daily_domain_id=None) as (running, daily):
        daily.fail("POST /meeting-tokens", *fault)
        answer = await pass_time(running.clock, asyncio.create_task(running.http.post("/start")))
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert ("retry-after" in answer.headers) is retry_after
        assert API_KEY not in answer.text
        assert (daily.rooms, running.provider.specs) == ({}, {})
        assert (await running.http.get("/v1/sessions")).json()["sessions"] == []


async def test_the_callers_properties_are_merged(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        started = await running.start(
            "/start?wait=started",
            dailyRoomProperties={"enable_chat": True, "geo": "eu-central-1", "max_participants": 2},
            dailyMeetingTokenProperties={"user_name": "Ada", "user_id": "u-1", "start_audio_off": True},
        )
        room = room_of(started["sessionId"])
        config = daily.rooms[room]["config"]
        assert config.items() >= {"enable_chat": True, "geo": "eu-central-1", "max_participants": 2}.items()
        assert config["eject_at_room_exp"] is True
        client = daily.admits(room, started["dailyToken"])
        assert client is not None
        assert client["user_name"] == "Ada"
        assert client["start_audio_off"] is True


@pytest.mark.parametrize(
    ("field", "properties", "words"),
    [
        ("dailyRoomProperties", {"privacy": "public"}, "dailyRoomProperties.privacy is refused; allowed: "),
        ("dailyRoomProperties", {"enable_knocking": True}, "dailyRoomProperties.enable_knocking is refused"),
        ("dailyRoomProperties", {"exp": 9999999999}, "dailyRoomProperties.exp is refused"),
        ("dailyRoomProperties", {"nbf": 1}, "dailyRoomProperties.nbf is refused"),
        ("dailyRoomProperties", {"eject_at_room_exp": False}, "eject_at_room_exp is refused"),
        ("dailyRoomProperties", {"eject_after_elapsed": 1}, "eject_after_elapsed is refused"),
        ("dailyRoomProperties", {"recordings_bucket": {}}, "recordings_bucket is refused"),
        (
            "dailyRoomProperties",
            {"meeting_join_hook": "https://evil.example"},
            "meeting_join_hook is refused",
        ),
        ("dailyRoomProperties", {"enable_chat": "yes"}, "dailyRoomProperties.enable_chat: Input should be"),
        ("dailyRoomProperties", {"max_participants": 1}, "max_participants: Input should be greater than"),
        ("dailyRoomProperties", {"lang": "xx"}, "dailyRoomProperties.lang: Input should be 'da', 'de'"),
        ("dailyRoomProperties", {"geo": "mars-1"}, "dailyRoomProperties.geo: Input should be 'af-south-1'"),
        (
            "dailyMeetingTokenProperties",
            {"is_owner": True},
            "dailyMeetingTokenProperties.is_owner is refused",
        ),
        ("dailyMeetingTokenProperties", {"room_name": "other"}, "room_name is refused; allowed: close_tab"),
        ("dailyMeetingTokenProperties", {"exp": 1}, "dailyMeetingTokenProperties.exp is refused"),
        ("dailyMeetingTokenProperties", {"eject_at_token_exp": False}, "eject_at_token_exp is refused"),
        ("dailyMeetingTokenProperties", {"permissions": {}}, "permissions is refused"),
        ("dailyMeetingTokenProperties", {"lang": "pt-br"}, "dailyMeetingTokenProperties.lang: Input should"),
        ("dailyMeetingTokenProperties", {"user_name": 5}, "user_name: Input should be a valid string, not 5"),
        ("dailyRoomProperties", "private", "dailyRoomProperties: Input should be a"),
    ],
)
async def test_what_opens_the_room_or_outlives_the_session_is_refused_by_name(
    tmp_path, field, properties, words
):
    async with with_daily(tmp_path) as (running, daily):
        answer = await running.http.post("/start", json={field: properties})
        assert answer.status_code == 400
        assert words in answer.json()["detail"]
        assert daily.calls == []
        assert running.provider.asked == 0
        # They are of no interest to a session that has no room.
        if isinstance(properties, dict):
            body = {field: properties, "transport": "webrtc"}
            assert (await running.http.post("/start", json=body)).status_code == 200


async def test_room_and_machine_are_asked_for_at_the_same_time(tmp_path):
    provider = ScriptedProvider()
    provider.gate = asyncio.Event()
    async with with_daily(tmp_path, provider=provider) as (running, daily):
        daily.held = asyncio.Event()
        asking = asyncio.create_task(running.start("/start?wait=started"))
        await eventually(
            lambda: asyncio.sleep(0, (provider.asked, len(daily.calls))), lambda seen: seen == (1, 1)
        )
        session = (await running.http.get("/v1/sessions")).json()["sessions"][0]
        assert session["state"] == "starting"
        provider.gate.set()
        await running.until(session["sessionId"], "starting")
        await eventually(
            lambda: running.session(session["sessionId"]), lambda seen: seen["startedAt"] is not None
        )
        await asyncio.sleep(0.05)
        assert not asking.done(), "an answer before there is a room to join"
        daily.held.set()
        assert (await asking)["dailyRoom"] == daily.rooms[room_of(session["sessionId"])]["url"]
        kinds = [event["event"] for event in await running.timeline(session["sessionId"])]
        assert kinds == ["queued", "starting", "machine-started", "room-open"]


async def test_a_start_is_answered_once_the_bot_says_that_it_is_in_the_room(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        asking = asyncio.create_task(running.start())
        await eventually(lambda: asyncio.sleep(0, running.provider.running), lambda seen: len(seen) == 1)
        session_id = running.provider.running[0].removeprefix("m-")
        machine = await running.machine_of(session_id)
        await machine.hello("starting")
        await running.in_phase(session_id, "starting")
        assert not asking.done()
        await machine.send(protocol.Ready(timings=protocol.Timings(ready=1.0)))
        started = await asking
        assert daily.admits(room_of(session_id), started["dailyToken"]) is not None
        assert (await running.session(session_id))["state"] == "ready"


@pytest.mark.parametrize(
    ("text", "said", "told"),
    [("", "booting", protocol.RoomOpen), ("x" * 5000, "idle", protocol.Assign)],
    ids=["in arguments", "over the channel"],
)
async def test_a_machine_that_is_there_before_its_room_is_told_when_that_is_there(tmp_path, text, said, told):
    async with with_daily(tmp_path) as (running, daily):
        daily.held = asyncio.Event()
        session_id = (await running.start("/start?wait=none", body={"text": text}))["sessionId"]
        await eventually(lambda: running.session(session_id), lambda session: session["startedAt"])
        connect = running.machine_of if said == "booting" else lambda one: running.connect(f"m-{one}")
        first = await connect(session_id)
        await first.hello(said)
        await running.in_phase(session_id, said)
        # It comes back before there is anything to say: what it hears counts once.
        machine = await connect(session_id)
        await machine.hello(said, opened_at=1.0)
        await running.in_phase(session_id, said)
        await machine.send(protocol.Heartbeat(phase="loading", rss_bytes=1, cpu_seconds=1))
        await running.in_phase(session_id, "loading")
        assert daily.rooms == {}
        daily.held.set()
        assert isinstance(await machine.receive(), told)
        assert list(daily.rooms) == [room_of(session_id)]
        await running.http.delete(f"/sessions/{session_id}")
        assert isinstance(await machine.receive(), protocol.Stop), "and nothing twice"


async def test_a_large_body_takes_room_and_token_over_the_channel(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        started = await running.start("/start?wait=started", body={"text": "x" * 5000})
        session_id = started["sessionId"]
        assert "--room-url" not in arguments(running, session_id)
        machine = await running.connect(f"m-{session_id}")
        await machine.hello("idle")
        assigned = await machine.receive()
        assert isinstance(assigned, protocol.Assign)
        assert assigned.assignment.room_url == started["dailyRoom"]
        bot = daily.admits(room_of(session_id), assigned.assignment.token or "")
        assert bot is not None
        assert bot["is_owner"] is True


async def test_the_same_key_gets_the_same_room_and_token(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        headers = {"Idempotency-Key": "k-1"}
        body = {"dailyRoomProperties": {"enable_chat": True}}
        first, again = [
            (await running.http.post("/start?wait=started", json=body, headers=headers)).json()
            for _ in range(2)
        ]
        assert first == again
        assert len(daily.rooms) == 1
        other = {"dailyRoomProperties": {"enable_chat": False}}
        reused = await running.http.post("/start", json=other, headers=headers)
        assert reused.status_code == 422


async def test_a_room_is_created_once_though_the_answer_is_lost(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        daily.fail("POST /rooms", "lost reply")
        started = await running.start("/start?wait=started")
        assert list(daily.rooms) == [room_of(started["sessionId"])]
        assert [call.method for call in daily.calls] == ["POST", "GET"]


async def test_an_answer_about_another_room_is_not_believed(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        daily.fail("POST /rooms", "another room")
        daily.fail("GET /rooms", "another room")
        asking = asyncio.create_task(running.start("/start?wait=started"))
        started = await pass_time(running.clock, asking, step=0.05)
        assert list(daily.rooms) == [room_of(started["sessionId"])]
        assert [call.method for call in daily.calls] == ["POST", "GET", "GET"]


@pytest.mark.parametrize(
    "faults",
    [["lost request"], ["failed", "failed"], ["throttled"], ["lost request", "throttled", "garbage"]],
)
async def test_a_room_is_asked_for_again_within_the_starts_time(tmp_path, faults):
    async with with_daily(tmp_path) as (running, daily):
        daily.fail("POST /rooms", *faults)
        asking = asyncio.create_task(running.start("/start?wait=started"))
        started = await pass_time(running.clock, asking, step=0.05)
        assert list(daily.rooms) == [room_of(started["sessionId"])]


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        ("dark", 503, "room_unreachable"),
        ("throttled", 503, "room_throttled"),
        ("refused", 502, "room_rejected"),
    ],
)
async def test_start_fails_with_a_clear_answer_and_ends_its_machine_without_a_room(
    tmp_path, trouble, status, code
):
    async with with_daily(tmp_path) as (running, daily):
        if trouble == "dark":
            daily.dark = True
        else:
            daily.fail("POST /rooms", *[trouble] * 20)
        asking = asyncio.create_task(running.http.post("/start"))
        answer = await pass_time(running.clock, asking, step=0.5)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert API_KEY not in answer.text
        daily.dark = False
        await running.settle()
        assert running.provider.running == []
        session = (await running.http.get("/v1/sessions")).json()["sessions"][0]
        assert (session["state"], session["reason"]) == ("failed", code)
        assert API_KEY not in json.dumps(session)


async def test_without_a_machine_the_room_is_deleted(tmp_path):
    provider = ScriptedProvider()
    provider.fault = NoCapacity("the zone is full")
    async with with_daily(tmp_path, provider=provider) as (running, daily):
        answer = await running.http.post("/start")
        assert (answer.status_code, answer.json()["code"]) == (503, "no_capacity")
        await running.settle()
        await until_rooms_are_looked_after(running)
        assert daily.rooms == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"privacy": "public"}, "privacy is 'public', not 'private'"),
        ({"exp": SESSION_ENDS_AT + 60}, f"exp is {SESSION_ENDS_AT + 60}, not {SESSION_ENDS_AT}"),
        ({"eject_at_room_exp": False}, "eject_at_room_exp is False, not True"),
        ({}, None),
    ],
)
async def test_a_room_of_that_name_that_is_not_as_asked_for_is_not_used(tmp_path, change, words):
    async with with_daily(tmp_path) as (running, daily):
        daily.held = asyncio.Event()
        asking = asyncio.create_task(running.http.post("/start?wait=started"))
        await eventually(lambda: asyncio.sleep(0, daily.calls), lambda calls: len(calls) == 1)
        asked = daily.calls[0].body
        properties = asked["properties"] | {key: of for key, of in change.items() if key != "privacy"}
        daily.add(asked["name"], privacy=change.get("privacy", asked["privacy"]), properties=properties)
        daily.held.set()
        answer = await asking
        if words is None:
            assert answer.status_code == 200
            return
        assert (answer.status_code, answer.json()["code"]) == (502, "room_rejected")
        session_id = asked["name"].removeprefix("switchboard-")
        assert words in (await running.session(session_id))["detail"]


async def test_a_wrong_domain_is_told_at_the_first_start(tmp_path):
    clock = ManualClock()
    unchecked = FakeDaily(clock)
    unchecked.fail("GET /", "failed")
    async with with_daily(tmp_path, unchecked, clock, daily_domain="another") as (running, daily):
        answer = await running.http.post("/start")
        assert (answer.status_code, answer.json()["code"]) == (502, "room_rejected")
        session = (await running.http.get("/v1/sessions")).json()["sessions"][0]
        detail = (await running.session(session["sessionId"]))["detail"]
        assert f"url is 'https://{DOMAIN}.daily.co/" in detail
        await until_rooms_are_looked_after(running)
        assert daily.rooms == {}


async def test_who_waits_for_a_line_gets_its_room_with_the_line_and_has_its_token_before(tmp_path):
    async with with_daily(tmp_path, agents=agents(max_sessions=1, client_timeout_seconds=600)) as (
        running,
        daily,
    ):
        first = await running.start("/start?wait=started")
        second = await running.start("/start?wait=none&queue=300")
        assert second["queue"]["place"] == 1
        assert list(daily.rooms) == [room_of(first["sessionId"])]
        await running.http.delete(f"/sessions/{first['sessionId']}")
        await eventually(
            lambda: asyncio.sleep(0, list(daily.rooms)), lambda seen: room_of(second["sessionId"]) in seen
        )
        assert daily.admits(room_of(second["sessionId"]), second["dailyToken"]) is not None


async def test_neither_key_nor_tokens_are_in_a_log_or_in_what_is_shown_of_a_session(tmp_path, caplog):
    with caplog.at_level("DEBUG"):
        clock = ManualClock()
        daily = FakeDaily(clock)
        daily.fail("POST /rooms", "refused", "garbage")
        secret = "c2VjcmV0LW9mLXRoZS13ZWJob29rcw=="
        async with with_daily(tmp_path, daily, clock, daily_webhook_secret=secret) as (running, _):
            await running.http.post("/start")
            started = await running.start("/start?wait=started")
            token = arguments(running, started["sessionId"])["--token"]
            shown = await running.http.get("/v1/sessions")
            session = await running.http.get(f"/sessions/{started['sessionId']}")
            told = shown.text + session.text + caplog.text + repr(running.dispatcher.settings)
            for hidden in (API_KEY, secret, token, started["dailyToken"]):
                assert hidden not in told
