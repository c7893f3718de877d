"""Phone calls over HTTP and WebSockets: fake carriers, a scripted machine, a clock by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot import protocol
from dispatcher.settings import AgentSettings
from dispatcher.telephony.settings import AgentPhone, PhoneAccounts
from dispatcher.telephony.streams import MAX_HELD_BYTES
from tests.dispatcher.harness import START_OF_TIME, Deployment, deployment, eventually
from tests.patience import PATIENCE
from tests.phone.carriers import ACCOUNTS, NAMES, SECRETS, FakeCall, read

DIRECTED = ("twilio", "telnyx", "plivo")


@contextlib.asynccontextmanager
async def served(tmp_path: Path, phone: AgentPhone | None = None, **agent) -> AsyncIterator[Deployment]:
    settings = AgentSettings(
        bot=Path("bot/agents/echo.py"), transports=("websocket",), phone=phone or AgentPhone(), **agent
    )
    accounts = PhoneAccounts.model_validate(ACCOUNTS)
    agents = {"echo": settings, "page": AgentSettings(bot=Path("bot/agents/echo.py"))}
    async with deployment(tmp_path, agents=agents, phone=accounts, **SECRETS) as running:
        yield running


def call_of(carrier: str, id: str = "call-1", **more) -> FakeCall:
    return FakeCall(carrier, id, now=lambda: START_OF_TIME, **more)


async def ring(running: Deployment, call: FakeCall, agent: str = "echo", after: str = ""):
    return await running.http.send(call.webhook(f"{running.url}/telephony/{call.carrier}/{agent}{after}"))


def session_of(stream: str) -> str:
    return stream.split("/")[4]


async def count(running: Deployment) -> int:
    return (await running.http.get("/v1/agents/echo/sessions")).json()["total_count"]


def opened(url: str, **options) -> connect:
    return connect(url, proxy=None, open_timeout=PATIENCE, **options)


def machines_socket(running: Deployment, session_id: str) -> connect:
    token = running.provider.specs[f"m-{session_id}"].environment[protocol.MACHINE_TOKEN_VARIABLE]
    url = f"{running.url.replace('http', 'ws')}{protocol.SOCKET_PATH}?session_id={session_id}"
    return opened(url, additional_headers={"Authorization": f"Bearer {token}"})


async def receive(connection: ClientConnection):
    async with asyncio.timeout(PATIENCE):
        return await connection.recv()


async def code_of(connection: ClientConnection) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await receive(connection)
    return connection.close_code


async def is_refused(url: str) -> bool:
    with pytest.raises(InvalidStatus) as error:
        async with opened(url):
            pass
    return error.value.response.status_code == 403


@pytest.mark.parametrize("carrier", NAMES)
async def test_call_starts_one_session_when_webhook_is_repeated(tmp_path, carrier):
    async with served(tmp_path) as running:
        first = await ring(running, call_of(carrier))
        again = await ring(running, call_of(carrier))
        assert first.text == again.text
        assert await count(running) == 1
        session_id = session_of(read(first).stream)
        assert read(first).stream.startswith(f"{running.url.replace('http', 'ws')}/sessions/{session_id}/ws/")
        other = read(await ring(running, call_of(carrier, "call-2")))
        assert session_of(other.stream) != session_id


@pytest.mark.parametrize("carrier", NAMES)
async def test_bot_gets_numbers_and_custom_parameters_in_its_body(tmp_path, carrier):
    async with served(tmp_path) as running:
        own = {"twilio": "SipHeader_X-Shop", "telnyx": "SipHeader_X-Shop", "plivo": "X-PH-X-Shop"}
        name = own.get(carrier, "X-Shop")
        answer = read(await ring(running, call_of(carrier, more={name: "Müller"})))
        session = await running.dispatcher.store.session(session_of(answer.stream))
        assert session is not None
        assert session.body == {
            "carrier": carrier,
            "call_id": "call-1",
            "from_number": "+14155550123",
            "to_number": "+14155550100",
            "X-Shop": "Müller",
        }
        if carrier == "twilio":
            assert answer.parameters["X-Shop"] == "Müller"


@pytest.mark.parametrize("carrier", NAMES)
async def test_forged_webhook_starts_nothing(tmp_path, carrier):
    async with served(tmp_path) as running:
        if carrier == "telnyx":
            late = FakeCall(carrier, now=lambda: START_OF_TIME - 301)
        else:
            late = call_of(carrier, secret="a guess")
        for after in ("", "/after", "/status")[: 1 if carrier == "exotel" else 3]:
            assert (await ring(running, late, after=after)).status_code == 401
        assert await count(running) == 0


async def test_other_accounts_webhook_starts_nothing(tmp_path):
    async with served(tmp_path) as running:
        answer = await ring(running, call_of("twilio", more={"AccountSid": "AC" + "9" * 32}))
        assert answer.status_code == 401
        assert await count(running) == 0


async def test_webhook_is_refused_when_too_large_or_for_unknown_agent_or_carrier(tmp_path):
    async with served(tmp_path) as running:
        large = await ring(running, call_of("twilio", more={"Padding": "x" * 70_000}))
        assert large.status_code == 413
        for agent in ("nobody", "page"):
            assert (await ring(running, call_of("twilio"), agent)).status_code == 404
        assert (await running.http.post("/telephony/nobody/echo")).status_code == 404
        assert await count(running) == 0
    async with deployment(tmp_path / "none") as running:
        assert (await ring(running, call_of("twilio"))).status_code == 404


@pytest.mark.parametrize("carrier", DIRECTED)
async def test_caller_hears_greeting_before_stream(tmp_path, carrier):
    async with served(tmp_path, AgentPhone(greeting="One moment, please.")) as running:
        answer = read(await ring(running, call_of(carrier)))
        assert answer.said == "One moment, please."
        assert answer.verbs[-1] == "Redirect"
        assert answer.then == f"{running.url}/telephony/{carrier}/echo/after"
    sound = "https://voice.example/hello.mp3"
    async with served(tmp_path / "played", AgentPhone(greeting_url=sound)) as running:
        assert read(await ring(running, call_of(carrier))).played == sound


@pytest.mark.parametrize("carrier", DIRECTED)
@pytest.mark.parametrize("how", ["message", "forward", "busy"])
async def test_caller_gets_what_is_configured_when_agent_is_at_capacity(tmp_path, carrier, how):
    phone = {
        "message": AgentPhone(message="Please call again."),
        "forward": AgentPhone(forward_to="+14155550199"),
        "busy": AgentPhone(),
    }[how]
    async with served(tmp_path, phone, max_sessions=1) as running:
        assert read(await ring(running, call_of(carrier))).stream
        answer = read(await ring(running, call_of(carrier, "call-2")))
        assert not answer.stream
        assert await count(running) == 1
        if how == "message":
            assert (answer.said, answer.verbs[-1]) == ("Please call again.", "Hangup")
        elif how == "forward":
            assert answer.forwarded_to == "+14155550199"
        else:
            assert answer.verbs == (("Hangup",) if carrier == "plivo" else ("Reject",))


async def test_exotel_gets_an_error_when_agent_is_at_capacity(tmp_path):
    async with served(tmp_path, max_sessions=1) as running:
        assert read(await ring(running, call_of("exotel"))).stream
        assert (await ring(running, call_of("exotel", "call-2"))).status_code == 429


@pytest.mark.parametrize("carrier", NAMES)
async def test_caller_hears_ringing_until_machine_is_there_and_bot_gets_first_messages(tmp_path, carrier):
    async with served(tmp_path) as running:
        call = call_of(carrier)
        answer = read(await ring(running, call))
        session_id = session_of(answer.stream)
        async with opened(answer.stream) as stream:
            opening = call.opening(answer.parameters)
            for message in opening:
                await stream.send(message)
            await stream.send(call.media(b"\xff" * 160))
            rung = b""
            size = 2 if carrier == "exotel" else 1
            while len(rung) < 16_000 * size:
                hearing = asyncio.create_task(receive(stream))
                while not hearing.done():
                    running.clock.advance(0.1)
                    await asyncio.wait([hearing], timeout=0.01)
                rung += call.heard(json.loads(hearing.result()))
            assert len(set(rung)) > 50
            async with machines_socket(running, session_id) as machine:
                protocol.Joined.model_validate_json(await receive(machine))
                assert [await receive(machine) for _ in opening] == opening
                said = json.loads(await receive(stream))
                while call.heard(said):
                    said = json.loads(await receive(stream))
                assert said["event"] == ("clearAudio" if carrier == "plivo" else "clear")
                await stream.send(call.media(b"\x00" * 160))
                assert await receive(machine) == call.media(b"\x00" * 160)
                await machine.send("from the bot")
                assert await receive(stream) == "from the bot"
                assert await is_refused(answer.stream)
                await machine.close(1000)
                assert await code_of(stream) == 1000


@pytest.mark.parametrize("how", ["close", "stop"])
async def test_session_ends_when_caller_hangs_up_before_machine_is_there(tmp_path, how):
    async with served(tmp_path) as running:
        call = call_of("twilio")
        answer = read(await ring(running, call))
        async with opened(answer.stream) as stream:
            for message in call.opening(answer.parameters):
                await stream.send(message)
            if how == "stop":
                await stream.send(call.stop())
                assert await code_of(stream) == 1000
        session = await running.until(session_of(answer.stream), "ended")
        assert session["reason"] == "stopped"
        assert await is_refused(answer.stream)
        assert read(await ring(running, call)).verbs == ("Hangup",)
        await eventually(lambda: count(running), lambda found: found == 1)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("x" * (MAX_HELD_BYTES + 1), 1009),
        (b"bytes", 1003),
        ("no JSON", 1007),
        ("[]", 1007),
        ('{"event":"start"}', 1007),
        ("[" * 10_000, 1007),
    ],
)
async def test_stream_is_closed_and_session_ended_when_other_side_is_no_carrier(tmp_path, frame, code):
    async with served(tmp_path) as running:
        answer = read(await ring(running, call_of("twilio")))
        async with opened(answer.stream) as stream:
            await stream.send(frame)
            assert await code_of(stream) == code
        await running.until(session_of(answer.stream), "ended")


async def test_flood_of_frames_closes_stream_before_machine_is_there(tmp_path):
    async with served(tmp_path) as running:
        call = call_of("twilio")
        answer = read(await ring(running, call))
        async with opened(answer.stream) as stream:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(2000):
                    await stream.send(call.media(b"\xff" * 160))
            assert await code_of(stream) == 1008
        await running.until(session_of(answer.stream), "ended")


async def test_stream_is_refused_without_the_token_of_its_call(tmp_path):
    async with served(tmp_path) as running:
        first, other = [read(await ring(running, call_of("twilio", id))) for id in ("call-1", "call-2")]
        stem = first.stream.rpartition("/")[0]
        assert await is_refused(f"{stem}/{other.stream.rpartition('/')[2]}")
        assert await is_refused(f"{stem}/guess")
        assert await is_refused(f"{stem.replace(session_of(first.stream), 'unknown')}/guess")
        running.clock.advance(301)
        assert await is_refused(first.stream)


@pytest.mark.parametrize(
    ("phone", "heard"),
    [
        (AgentPhone(message="Please call again."), ("Please call again.", "Hangup")),
        (AgentPhone(), ("", "Hangup")),
    ],
)
async def test_stream_ends_and_call_is_told_what_follows_when_machine_cannot_start(tmp_path, phone, heard):
    async with served(tmp_path, phone) as running:
        call = call_of("twilio")
        answer = read(await ring(running, call))
        async with opened(answer.stream) as stream:
            for message in call.opening(answer.parameters):
                await stream.send(message)
            await running.look(after=61)
            assert await code_of(stream) == 1000
        after = read(await ring(running, call, after="/after"))
        assert (after.said or "", after.verbs[-1]) == heard


@pytest.mark.parametrize("carrier", DIRECTED)
async def test_call_is_hung_up_and_session_ended_when_caller_is_gone_during_greeting(tmp_path, carrier):
    async with served(tmp_path, AgentPhone(greeting="One moment, please.")) as running:
        answer = read(await ring(running, call_of(carrier)))
        ringing = call_of(carrier, more={"CallStatus": "in-progress"})
        await ring(running, ringing, after="/status")
        assert (await running.session(session_of(answer.stream)))["state"] != "ended"
        over = call_of(carrier, more={"CallStatus": "completed"})
        assert (await ring(running, over, after="/status")).status_code == 200
        await running.until(session_of(answer.stream), "ended")
        assert read(await ring(running, call_of(carrier), after="/after")).verbs == ("Hangup",)
        unknown = call_of(carrier, "never-seen", more={"CallStatus": "completed"})
        assert (await ring(running, unknown, after="/status")).status_code == 200
        assert (await ring(running, unknown, after="/after")).status_code == 404
