"""Pipecat Cloud's contract, over real HTTP: a process that is started without a word of ours."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bot.hosted_routes import add_routes
from bot.protocol import MACHINE_TOKEN_VARIABLE
from tests.bot.client import client
from tests.bot.dispatcher import Machine, machine
from tests.patience import PATIENCE
from tests.ports import free_port

SESSION = {"x-daily-session-id": "s-1"}
ROOM = {**SESSION, "x-daily-room-url": "https://x.daily.co/r", "x-daily-room-token": "room-token"}
OFFERED = {**SESSION, "x-daily-transport-type": "webrtc"}
BROKEN_BODY = "the parameter `body` of /ws is not JSON in base64"


@dataclass
class Hosted:
    """A process that serves, and what it sees of its directory."""

    process: Machine
    directory: Path
    port: int
    http: httpx.AsyncClient

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await self.http.get("/livez")
                    return
                except httpx.ConnectError:
                    assert self.process.process.returncode is None, self.process.text()
                    await asyncio.sleep(0.02)

    async def seen(self) -> dict[str, Any]:
        file = self.directory / "seen.json"
        async with asyncio.timeout(PATIENCE):
            while not (file.exists() and file.read_text()):
                await asyncio.sleep(0.01)
        return json.loads(file.read_text())

    def leave(self) -> None:
        (self.directory / "leave").touch()


@asynccontextmanager
async def hosted(directory: Path, bot_file: str = "cloud.py", **variables: str) -> AsyncIterator[Hosted]:
    port = free_port()
    environment = {
        MACHINE_TOKEN_VARIABLE: "",
        "PORT": str(port),
        # Nobody is there, as where there is no Pipecat Cloud.
        "ICE_CONFIG_URL": f"http://127.0.0.1:{free_port()}/ice-servers",
        **variables,
    }
    async with (
        machine(directory, bot_file, "", None, arguments=[], environment=environment) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as http,
    ):
        yield Hosted(process, directory, port, http)


async def test_a_room_is_given_to_the_bot_and_the_answer_is_held_until_it_is_over(tmp_path):
    # The bot had no pipeline: its end is not that of a session that went well.
    async with hosted(tmp_path) as served:
        await served.until_ready()
        for body, said in {
            b"{": "body: not JSON",
            b"[1]": "body: a list; allowed: a JSON object",
        }.items():
            refused = await served.http.post("/bot", content=body, headers=ROOM)
            assert (refused.status_code, refused.json()["detail"][: len(said)]) == (422, said)
            assert refused.headers["content-type"] == "application/problem+json"
        start = asyncio.create_task(served.http.post("/bot", json={"a": [1, "ü"]}, headers=ROOM))
        seen = await served.seen()
        assert seen == {
            "type": "DailyRunnerArguments",
            "body": {"a": [1, "ü"]},
            "session": "s-1",
            "room": "https://x.daily.co/r",
            "token": "room-token",
        }
        again = await served.http.post("/bot", json={}, headers=ROOM)
        assert (again.status_code, again.json()["code"]) == (409, "session-taken")
        ready = await served.http.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "status": "busy"})
        assert (await served.http.get("/livez")).status_code == 200
        assert not start.done()
        served.leave()
        answer = await start
        assert (answer.status_code, answer.json(), await served.process.exit_code()) == (200, {}, 1)


async def test_a_session_that_went_well_ends_with_status_0(tmp_path):
    async with hosted(tmp_path, "room.py") as served:
        await served.until_ready()
        start = asyncio.create_task(served.http.post("/bot", json={}, headers=ROOM))
        async with asyncio.timeout(PATIENCE):
            while not (tmp_path / "joined").exists():
                await asyncio.sleep(0.01)
        served.leave()
        assert (await start).json() == {}
        assert await served.process.exit_code() == 0


async def test_a_call_over_a_websocket(tmp_path):
    encoded = base64.b64encode(json.dumps({"from": "+49"}).encode()).decode()
    async with hosted(tmp_path) as served:
        await served.until_ready()
        address = f"ws://127.0.0.1:{served.port}/ws"
        async with connect(f"{address}?body={encoded}", additional_headers=SESSION, proxy=None) as call:
            await call.send("hello")
            assert await call.recv() == "HELLO"
            with pytest.raises(InvalidStatus) as refused:
                async with connect(address, proxy=None):
                    pass
            assert refused.value.response.status_code == 403
            await call.send("bye")
            assert await call.recv() == "BYE"
            served.leave()
            async with asyncio.timeout(PATIENCE):
                await call.wait_closed()
            assert call.close_code == 1000
        await served.process.exit_code()
        seen = await served.seen()
    assert seen == {"type": "WebSocketRunnerArguments", "body": {"from": "+49"}, "session": "s-1"}


async def test_a_websocket_with_a_broken_body_is_served_all_the_same(tmp_path):
    too_deep = base64.urlsafe_b64encode(b"[" * 6000).decode()
    async with hosted(tmp_path) as served:
        await served.until_ready()
        async with connect(f"ws://127.0.0.1:{served.port}/ws?body={too_deep}", proxy=None) as call:
            await call.send("bye")
            served.leave()
            await call.wait_closed()
        await served.process.exit_code()
        body, log = (await served.seen())["body"], served.process.text()
    assert body == {}
    assert BROKEN_BODY in log


async def test_after_sigterm_a_session_has_its_time(tmp_path):
    """One over a WebSocket, which has begun with a body that is no base64."""

    async with hosted(tmp_path, SHUTDOWN_TIMEOUT="1") as served:
        await served.until_ready()
        async with connect(f"ws://127.0.0.1:{served.port}/ws?body=%%%", proxy=None) as call:
            assert (await served.seen())["body"] == {}
            served.process.process.send_signal(signal.SIGTERM)
            await call.send("still here?")
            assert await call.recv() == "STILL HERE?"
            await call.wait_closed()
        code, log = await served.process.exit_code(), served.process.text()
    assert code == 0
    assert BROKEN_BODY in log


@pytest.mark.parametrize(
    ("path", "headers"), [("/bot", OFFERED), ("/api/offer", SESSION)], ids=["/bot", "/api/offer"]
)
async def test_a_session_that_cannot_be_assigned_ends(path, headers):
    """Claimed and never assigned, the process would refuse everybody and wait for ever."""

    class Broken:
        claimed = stopped = False
        session = property(lambda self: self)

        def claim(self):
            self.claimed = True

        def stop(self):
            self.stopped = True

        async def ice_servers(self):
            raise RuntimeError("a fault that nobody thought of")

    host: Any = Broken()
    app = FastAPI()
    add_routes(app, host)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://machine") as http:
        assert (await http.post(path, json={}, headers=headers)).status_code == 500
    assert (host.claimed, host.stopped) == (True, True)


async def talk(served: Hosted, caller: Any) -> None:
    """Offer, be answered, hear the bot, and hang up."""
    answer = await served.http.post("/api/offer", json=await caller.offer(), headers=SESSION)
    assert answer.status_code == 200, answer.text
    await caller.accept(answer.json())
    trickled = {"pc_id": caller.pc_id, "candidates": [{"candidate": "", "sdp_mid": "0"}]}
    patched = await served.http.patch("/api/offer", json=trickled)
    assert (patched.status_code, patched.json()) == (200, {"status": "success"})
    assert await caller.loudness() > 0.1
    await caller.pc.close()


async def test_a_call_by_smallwebrtc(tmp_path):
    """By the offer alone, after some that are none."""

    async with hosted(tmp_path, "greeter.py") as served, client() as caller:
        await served.until_ready()
        trickled = await served.http.patch("/api/offer", json={"pc_id": "x", "candidates": []})
        assert (trickled.status_code, trickled.json()["code"]) == (404, "unknown-connection")
        offered = await served.http.post("/api/offer", json={"sdp": "x", "type": "offer"})
        assert (offered.status_code, offered.json()["code"]) == (400, "bad-request")
        await talk(served, caller)
        assert await served.process.exit_code() == 0


async def test_a_call_that_was_announced_where_the_platform_has_no_servers(tmp_path):
    """The server at `ICE_CONFIG_URL` does not even speak HTTP."""

    async def say_something_else(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    platform = await asyncio.start_server(say_something_else, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{platform.sockets[0].getsockname()[1]}/ice-servers"
    async with hosted(tmp_path, "greeter.py", ICE_CONFIG_URL=address) as served, client() as caller:
        await served.until_ready()
        start = asyncio.create_task(served.http.post("/bot", json={"a": 1}, headers=OFFERED))
        await talk(served, caller)
        assert (await start).json() == {}
        code = await served.process.exit_code()
    platform.close()
    log = served.process.text()
    assert code == 0
    assert "no STUN or TURN servers" in log


async def test_servers_of_the_platform_are_used(tmp_path):
    """The bot gathers its candidates with the servers that `ICE_CONFIG_URL` names."""
    asked: list[bytes] = []

    async def stun(reader, writer):
        asked.append(await reader.readline())
        body = json.dumps({"iceConfig": {"iceServers": [{"urls": f"stun:127.0.0.1:{port}"}]}})
        writer.write(f"HTTP/1.0 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    class Stun(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            requests.append(data)

    requests: list[bytes] = []
    port = free_port()

    # A binding request of RFC 8489 begins with its type and has the magic cookie.
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(Stun, local_addr=("127.0.0.1", port))
    platform = await asyncio.start_server(stun, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{platform.sockets[0].getsockname()[1]}/ice-servers"
    async with hosted(tmp_path, "greeter.py", ICE_CONFIG_URL=address) as served, client() as caller:
        await served.until_ready()
        offering = asyncio.create_task(
            served.http.post("/api/offer", json=await caller.offer(), headers=SESSION)
        )
        async with asyncio.timeout(PATIENCE):
            while not requests:
                await asyncio.sleep(0.01)
        offering.cancel()
    udp.close()
    platform.close()
    request = requests[0]
    assert request[:2] == b"\x00\x01"
    assert request[4:8] == bytes.fromhex("2112a442")
    assert asked == [b"GET /ice-servers HTTP/1.1\r\n"]


async def test_before_a_session_the_bots_own_routes_and_readiness_answer_until_sigterm(tmp_path):
    async with hosted(tmp_path) as served:
        await served.until_ready()
        assert (await served.http.get("/drawer")).json() == {"drawer": "open"}, "its lifespan began"
        said = []
        for file in (None, "not-ready", "broken"):
            for other in ("not-ready", "broken"):
                (tmp_path / other).unlink(missing_ok=True)
            if file:
                (tmp_path / file).touch()
            answer = await served.http.get("/readyz")
            said.append((answer.status_code, answer.json()))
        served.process.process.send_signal(signal.SIGTERM)
        code = await served.process.exit_code()
    assert said == [
        (200, {"status": "ok"}),
        (503, {"ready": False, "because": "a file says so"}),
        (503, {"ready": False, "error": "RuntimeError: the drawer is empty."}),
    ]
    assert code == 0


async def test_a_session_goes_on_after_sigterm_and_ends_with_the_second(tmp_path):
    """Its bot knows Pipecat Cloud's classes, and gets one; nobody has sent it a body."""

    async with hosted(tmp_path, KNOWS_CLASSES="1") as served:
        await served.until_ready()
        start = asyncio.create_task(served.http.post("/bot", headers=ROOM))
        seen = await served.seen()
        assert (seen["type"], seen["body"]) == ("DailySessionArguments", {})
        served.process.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while (await served.http.get("/readyz")).json() != {"ready": False, "status": "leaving"}:
                await asyncio.sleep(0.01)
        assert not start.done()
        refused = await served.http.post("/bot", json={}, headers=ROOM)
        assert (refused.status_code, refused.json()["code"]) == (503, "leaving")
        served.process.process.send_signal(signal.SIGTERM)
        assert ((await start).json(), await served.process.exit_code()) == ({}, 0)


async def test_a_bot_that_raises_is_told_by_status_and_log(tmp_path):
    """One that was given no transport."""

    async with hosted(tmp_path) as served:
        await served.until_ready()
        start = asyncio.create_task(served.http.post("/bot", json={"a": 1}, headers=SESSION))
        seen = await served.seen()
        assert seen == {"type": "RunnerArguments", "body": {"a": 1}, "session": "s-1"}
        (tmp_path / "raise").touch()
        answer, code, log = (await start).json(), await served.process.exit_code(), served.process.text()
    assert (answer, code) == ({}, 1)
    assert "RuntimeError: the line is dead" in log


async def test_a_bot_file_that_is_none_opens_no_port(tmp_path):
    file = tmp_path / "broken_bot.py"
    file.write_text("import nowhere_to_be_found\n")

    async with hosted(tmp_path, str(file)) as served:
        code, log = await served.process.exit_code(), served.process.text()
    assert code == 1
    assert "No module named 'nowhere_to_be_found'" in log


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("PORT", "http", "variable PORT is 'http': it must be a whole number from 1 to 65535"),
        ("PORT", "65536", "variable PORT is '65536': it must be a whole number from 1 to 65535"),
        ("SHUTDOWN_TIMEOUT", "-1", "variable SHUTDOWN_TIMEOUT is '-1': it must be a whole number from 1"),
    ],
)
async def test_a_variable_that_is_not_allowed(tmp_path, variable, value, said):
    async with hosted(tmp_path, **{variable: value}) as served:
        code, log = await served.process.exit_code(), served.process.text()
    assert code == 2
    assert said in log


async def test_a_port_that_is_taken(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        async with hosted(tmp_path, PORT=str(port)) as served:
            code, log = await served.process.exit_code(), served.process.text()
    assert code == 2
    assert f"variable PORT is '{port}', which cannot be used: Address already in use" in log
