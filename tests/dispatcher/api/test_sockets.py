"""The WebSockets of the transport `websocket`, over HTTP: a scripted machine and real clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bot import protocol
from dispatcher.keys import KeySettings, hash_of
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, deployment
from tests.patience import PATIENCE

AGENTS = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), transports=("websocket", "webrtc"))}


@contextlib.asynccontextmanager
async def served(tmp_path: Path, **more) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, agents=AGENTS, **more) as running:
        yield running


def opened(url: str, **options) -> connect:
    return connect(url, proxy=None, open_timeout=PATIENCE, **options)


def address_of(answer: dict) -> str:
    return f"{answer['wsUrl']}?token={answer['token']}"


def machines_socket(running: Deployment, session_id: str, token: str | None = None) -> connect:
    environment = running.provider.specs[f"m-{session_id}"].environment
    token = token if token is not None else environment[protocol.MACHINE_TOKEN_VARIABLE]
    url = f"{running.url.replace('http', 'ws')}{protocol.SOCKET_PATH}?session_id={session_id}"
    return opened(url, additional_headers={"Authorization": f"Bearer {token}"})


async def read(connection: ClientConnection) -> str | bytes:
    async with asyncio.timeout(PATIENCE):
        return await connection.recv()


async def code_of(connection: ClientConnection) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await read(connection)
    return connection.close_code


async def refused(url: str, **options) -> bool:
    with pytest.raises(InvalidStatus) as error:
        async with opened(url, **options):
            pass
    return error.value.response.status_code == 403


async def test_start_answers_address_and_token_at_once_as_pipecat_cloud_does(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        session_id = answer["sessionId"]
        assert answer["wsUrl"] == f"{running.url.replace('http', 'ws')}/sessions/{session_id}/ws"
        assert answer["token"] not in (answer["sessionToken"], "")
        over_webrtc = await running.start(transport="webrtc")
        assert "wsUrl" not in over_webrtc
        assert "token" not in over_webrtc


async def test_client_and_machine_are_joined_and_frames_pass(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        opening = asyncio.create_task(
            opened(
                address_of(answer), origin="http://localhost:5173", user_agent_header="a client"
            ).__aenter__()
        )
        async with machines_socket(running, answer["sessionId"]) as machine:
            joined = protocol.Joined.model_validate_json(await read(machine))
            assert dict(joined.headers) == {"origin": "http://localhost:5173", "user-agent": "a client"}
            client = await opening
            for frame in ("text", b"bytes"):
                await client.send(frame)
                assert await read(machine) == frame
                await machine.send(frame)
                assert await read(client) == frame
            await client.close(4001, "bye")
            assert await code_of(machine) == 4001


async def test_client_may_come_after_its_machine_and_give_its_token_as_a_header(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        headers = {"Authorization": f"Bearer {answer['token']}"}
        async with (
            machines_socket(running, answer["sessionId"]) as machine,
            opened(answer["wsUrl"], additional_headers=headers) as client,
        ):
            await read(machine)
            await machine.close(1000)
            assert await code_of(client) == 1000


async def test_client_is_closed_when_machine_breaks_without_a_word(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        async with (
            machines_socket(running, answer["sessionId"]) as machine,
            opened(address_of(answer)) as client,
        ):
            await read(machine)
            machine.transport.abort()
            assert await code_of(client) == 1011


async def test_session_waits_for_another_machine_socket_when_first_broke_before_its_client(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        async with machines_socket(running, answer["sessionId"]) as first:
            first.transport.abort()
        async with (
            machines_socket(running, answer["sessionId"]) as second,
            opened(address_of(answer)) as client,
        ):
            await read(second)
            await client.send("hello")
            assert await read(second) == "hello"


async def test_second_client_is_refused(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        async with (
            machines_socket(running, answer["sessionId"]) as machine,
            opened(address_of(answer)) as client,
        ):
            await read(machine)
            assert await refused(address_of(answer))
            await client.send("still here")
            assert await read(machine) == "still here"


@pytest.mark.parametrize("key", [None, "the-key"])
async def test_client_is_refused_without_the_token_of_its_session(tmp_path, key):
    keys = (KeySettings(name="k", hash=hash_of(key), scope="admin"),) if key else ()
    async with served(tmp_path, key=key, keys=keys) as running:
        answer, other = await running.start(), await running.start()
        for token in ("", "garbage", other["token"], answer["sessionToken"], key or "x"):
            assert await refused(f"{answer['wsUrl']}?token={token}")
            assert await refused(answer["wsUrl"], additional_headers={"Authorization": f"Bearer {token}"})
        assert await refused(answer["wsUrl"])
        # And a socket's token opens nothing else.
        shown = await running.http.get(
            f"/sessions/{answer['sessionId']}", headers={"Authorization": f"Bearer {answer['token']}"}
        )
        assert shown.status_code == (401 if key else 200)


async def test_client_is_refused_when_its_token_has_expired(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        longest = AGENTS["echo"].max_duration_seconds
        running.clock.is_set(longest + 301)
        assert await refused(address_of(answer))


async def test_client_is_refused_when_session_is_over_or_has_another_transport(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        await running.http.delete(f"/sessions/{answer['sessionId']}")
        assert await refused(address_of(answer))


async def test_waiting_client_is_refused_when_its_session_ends(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        opening = asyncio.create_task(refused(address_of(answer)))
        await asyncio.sleep(0.05)  # either way round it is refused
        await running.http.delete(f"/sessions/{answer['sessionId']}")
        assert await opening


async def test_page_of_unknown_site_is_refused(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        assert await refused(address_of(answer), origin="https://evil.example")


async def test_machine_is_refused_without_its_own_token_or_session(tmp_path):
    async with served(tmp_path) as running:
        answer, other = await running.start(), await running.start()
        others = running.provider.specs[f"m-{other['sessionId']}"].environment
        tokens = ("", "garbage", answer["token"], others[protocol.MACHINE_TOKEN_VARIABLE])
        for token in tokens:
            with pytest.raises(InvalidStatus):
                async with machines_socket(running, answer["sessionId"], token):
                    pass


async def test_machine_that_speaks_before_its_client_is_there_is_closed(tmp_path):
    async with served(tmp_path) as running:
        answer = await running.start()
        async with machines_socket(running, answer["sessionId"]) as machine:
            await machine.send("hello?")
            assert await code_of(machine) == 1000
