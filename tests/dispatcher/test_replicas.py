"""Two dispatchers on one PostgreSQL: whichever is asked, it is one deployment."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bot import protocol
from tests.dispatcher.harness import (
    Deployment,
    ManualClock,
    ScriptedMachine,
    ScriptedProvider,
    deployment,
    eventually,
)
from tests.patience import PATIENCE
from tests.postgres import Postgres


@contextlib.asynccontextmanager
async def two(directory: Path, url: str) -> AsyncIterator[tuple[Deployment, Deployment]]:
    """Two replicas, which share all that replicas share: the database, the machines, the secret, and time."""
    clock, provider = ManualClock(), ScriptedProvider()
    async with (
        deployment(directory, provider=provider, clock=clock, database_url=url) as a,
        deployment(directory, provider=provider, clock=clock, database_url=url) as b,
    ):
        yield a, b


async def offer(replica: Deployment, session_id: str, sdp: str) -> httpx.Response:
    return await replica.http.post(f"/sessions/{session_id}/api/offer", json={"sdp": sdp, "type": "offer"})


def body_of(request: protocol.Request) -> dict[str, str]:
    return json.loads(base64.b64decode(request.body))


async def heard_everywhere(session_id: str, *replicas: Deployment) -> None:
    """Return once each of them knows where the session's machine is connected."""
    everywhere = [replica.dispatcher.channels for replica in replicas]
    await eventually(
        lambda: asyncio.sleep(0, [channels.last_heard(f"m-{session_id}") for channels in everywhere]),
        lambda heard: None not in heard,
    )


@pytest.mark.parametrize("size", [100, 100_000, 700_000])
async def test_an_offer_at_one_replica_is_answered_by_a_machine_at_the_other(
    tmp_path: Path, postgres_url: str, size: int
):
    async with two(tmp_path, postgres_url) as (a, b):
        session_id = (await a.start())["sessionId"]
        calling = asyncio.create_task(offer(b, session_id, "o" * size))
        machine = await a.machine_of(session_id)
        await machine.hello("waiting")
        request = await machine.answer({"sdp": "a" * size, "type": "answer"})
        assert body_of(request)["sdp"] == "o" * size
        assert (await calling).json() == {"sdp": "a" * size, "type": "answer"}


async def test_a_stream_at_one_replica_tells_what_the_machine_says_at_the_other(
    tmp_path: Path, postgres_url: str
):
    async with two(tmp_path, postgres_url) as (a, b):
        session_id = (await a.start())["sessionId"]

        async def follow() -> list[str]:
            seen = []
            headers = {"Accept": "text/event-stream"}
            async with b.http.stream("GET", f"/v1/sessions/{session_id}/events", headers=headers) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("event: "):
                        seen.append(line.removeprefix("event: "))
            return seen

        following = asyncio.create_task(follow())
        machine = await a.machine_of(session_id)
        await machine.hello("waiting")
        await machine.send(protocol.Ready(timings=protocol.Timings()))
        await b.until(session_id, "ready")
        await machine.send(protocol.ClientConnected(timings=protocol.Timings()))
        await b.until(session_id, "active")
        await machine.send(protocol.Ended(reason="completed", message="Done."))
        assert isinstance(await machine.receive(), protocol.Acknowledge)
        async with asyncio.timeout(PATIENCE):
            kinds = await following
        assert [kind for kind in kinds if kind in ("ready", "active", "ended")] == [
            "ready",
            "active",
            "ended",
        ]


async def test_a_stop_at_one_replica_reaches_the_machine_at_the_other(tmp_path: Path, postgres_url: str):
    async with two(tmp_path, postgres_url) as (a, b):
        session_id = (await a.start())["sessionId"]
        machine = await a.machine_of(session_id)
        await machine.hello("active")
        await heard_everywhere(session_id, a, b)
        assert (await b.http.delete(f"/sessions/{session_id}")).status_code == 200
        assert isinstance(await machine.receive(), protocol.Stop)
        assert (await a.session(session_id))["reason"] == "stopped"


async def test_call_is_answered_when_its_machine_reconnects_to_the_other_replica(
    tmp_path: Path, postgres_url: str
):
    async with two(tmp_path, postgres_url) as (a, b):
        session_id = (await a.start())["sessionId"]
        first = await a.machine_of(session_id)
        await first.hello("waiting", opened_at=1.0)
        calling = asyncio.create_task(offer(a, session_id, "hello"))
        asked = await first.receive()
        assert isinstance(asked, protocol.Request)
        second: ScriptedMachine = await b.machine_of(session_id)
        await second.hello("waiting", opened_at=2.0)
        again = await second.answer({"sdp": "answer", "type": "answer"})
        assert again == asked, "the same id: the machine runs it once"
        assert (await calling).json()["sdp"] == "answer"
        await eventually(
            lambda: asyncio.sleep(0, a.dispatcher.channels.connected), lambda connected: connected == 0
        )


async def test_a_channel_outlives_an_outage_of_the_database(
    tmp_path: Path, postgres: Postgres, postgres_url: str
):
    async with deployment(tmp_path, database_url=postgres_url) as running:
        session_id = (await running.start())["sessionId"]
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        beat = protocol.Heartbeat(phase="active", rss_bytes=1, cpu_seconds=1)
        await machine.send(beat)
        # What a machine says is heard in its order: with this answer the heartbeat was heard.
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        await machine.answer({})
        await calling
        await asyncio.to_thread(postgres.stop, "immediate")
        for _ in range(3):
            await machine.send(beat)
        assert (await running.http.get(f"/sessions/{session_id}")).status_code == 503
        await asyncio.to_thread(postgres.start)
        calling = asyncio.create_task(running.http.get(f"/sessions/{session_id}/status"))
        await machine.answer({"connection": "the same"})
        assert (await calling).json() == {"connection": "the same"}
