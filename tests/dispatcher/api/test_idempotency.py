"""`Idempotency-Key`: a start that is repeated starts one session."""

import asyncio
import contextlib
import sqlite3
import uuid
from pathlib import Path

import pytest

from bot import protocol
from dispatcher.keys import KeySettings, hash_of, new_key
from dispatcher.machines.provider import NoCapacity
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import AN_EXIT_AND_MORE, Deployment, ScriptedProvider, deployment, eventually

ICE = {"enableDefaultIceServers": True, "body": {"name": "Ada", "city": "Bonn"}}


def agents(**more) -> dict[str, AgentSettings]:
    return {name: AgentSettings(bot=Path("bot/agents/echo.py"), **more) for name in ("echo", "other")}


async def start(running: Deployment, json: dict | None = None, path: str = "/start", key: str = "call-1"):
    return await running.http.post(path, json=json or {}, headers={"Idempotency-Key": key})


async def test_a_repeated_start_gets_the_same_answer_and_no_second_machine(tmp_path):
    async with deployment(tmp_path) as running:
        first = await start(running, ICE)
        again = await start(running, ICE)
        other_order = b'{ "body": {"city":"Bonn","name":"Ada"}, "enableDefaultIceServers": true }'
        headers = {"Idempotency-Key": "call-1"}
        third = await running.http.post("/v1/public/echo/start", content=other_order, headers=headers)
        assert first.json()["iceConfig"]
        assert first.json() == again.json() == third.json()
        assert len(running.provider.specs) == 1
        other = await start(running, ICE, key="call-2")
        assert other.json()["sessionId"] != first.json()["sessionId"]


async def test_starts_at_the_same_time_are_one(tmp_path):
    async with deployment(tmp_path, agents=agents(max_sessions=1)) as running:
        answers = await asyncio.gather(*(start(running, ICE) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["sessionId"] for answer in answers}) == 1
        assert len(running.provider.specs) == 1
        assert len(await running.dispatcher.store.live_sessions()) == 1


async def test_a_key_outlives_the_dispatcher(tmp_path):
    provider, patient = ScriptedProvider(), agents(start_timeout_seconds=AN_EXIT_AND_MORE)
    async with deployment(tmp_path, provider=provider, agents=patient) as running:
        first = (await start(running, ICE)).json()
    async with deployment(tmp_path, provider=provider) as running:
        assert (await start(running, ICE)).json() == first
        assert len(provider.specs) == 1


@pytest.mark.parametrize(
    ("path", "json"),
    [
        ("/start", {"body": {"name": "Bob"}, "enableDefaultIceServers": True}),
        ("/start", ICE | {"enableDefaultIceServers": False}),
        ("/start", ICE | {"transport": "webrtc"}),
        ("/v1/public/other/start", ICE),
    ],
)
async def test_the_same_key_with_another_request_is_refused(tmp_path, path, json):
    async with deployment(tmp_path, agents=agents()) as running:
        await start(running, ICE)
        answer = await start(running, json, path)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert len(running.provider.specs) == 1


async def test_a_repeated_start_waits_like_the_first(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.gate = asyncio.Event()
        first = asyncio.create_task(start(running))
        await eventually(running.dispatcher.store.live_sessions, lambda found: len(found) == 1)
        again = asyncio.create_task(start(running))
        at_once = await start(running, path="/start?wait=none")
        assert at_once.status_code == 200
        assert not first.done()
        assert not again.done()
        running.provider.gate.set()
        assert (await first).json() == (await again).json() == at_once.json()


async def test_a_start_that_failed_stays_failed_under_its_key(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.fault = NoCapacity("zone is full")
        first = await start(running)
        running.provider.fault = None
        again = await start(running)
        assert (first.status_code, first.json()["code"]) == (503, "no_capacity")
        # Not 503 once more: who comes back as told, with the same key, would do so for a day.
        assert (again.status_code, again.json()["code"]) == (502, "no_capacity")
        assert again.json()["detail"].endswith("For another session, use a new Idempotency-Key.")
        assert "Retry-After" not in again.headers
        assert (await start(running, key="call-2")).status_code == 200


async def test_a_start_that_was_refused_leaves_its_key_free(tmp_path):
    async with deployment(tmp_path, agents=agents(max_sessions=1)) as running:
        live = (await running.start())["sessionId"]
        assert (await start(running, ICE)).status_code == 429
        await running.http.delete(f"/sessions/{live}")
        assert (await start(running, ICE)).status_code == 200


async def test_a_key_is_kept_for_a_day_and_then_deleted_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("dispatcher.sessions.maintenance.retention.CLAIMS", 2)

    async with deployment(tmp_path) as running:
        first = (await start(running)).json()["sessionId"]
        for number in range(4):
            await start(running, key=f"more-{number}")
        machine = await running.machine_of(first)
        await machine.hello("active")
        await machine.send(protocol.Ended(reason="completed", message="Done."))
        await running.until(first, "ended")
        running.clock.advance(24 * 3600 - 1)
        await running.dispatcher.reaper.tick()
        assert (await start(running)).json()["sessionId"] == first
        # Before anything is deleted, the time alone frees the key.
        expired = running.clock.now() + 1
        assert await running.dispatcher.store.delete_expired_claims(expired - 1, 9) == 0
        running.clock.advance(1)
        second = (await start(running)).json()["sessionId"]
        assert second != first

        async def left() -> int:
            running.clock.advance(60)
            # While no time passes: the lease would, in a round that takes a while.
            await running.dispatcher.reaper.tick()
            with contextlib.closing(sqlite3.connect(tmp_path / "switchboard.sqlite")) as connection:
                return connection.execute("SELECT count(*) FROM claims").fetchone()[0]

        assert await eventually(left, lambda count: count <= 1) == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "two words", "käse", "tab\there"])
async def test_a_key_that_is_none_is_refused(tmp_path, key):
    async with deployment(tmp_path) as running:
        headers = {"Idempotency-Key": key.encode("latin-1")}
        answer = await running.http.post("/start", headers=headers)
        assert answer.status_code == 400
        assert "allowed is one of 1 to 255 visible ASCII characters" in answer.json()["detail"]
        twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        assert (await running.http.post("/start", headers=twice)).status_code == 400
        assert not running.provider.specs
        longest = {"Idempotency-Key": "k" * 255}
        assert (await running.http.post("/start", headers=longest)).status_code == 200


async def test_key_that_browsers_hold_takes_only_random_idempotency_keys(tmp_path):
    page, server = new_key(public=True), new_key(public=False)
    keys = (
        KeySettings(name="page", hash=hash_of(page), scope="start", origins=("https://a.example",)),
        KeySettings(name="server", hash=hash_of(server), scope="start"),
    )
    async with deployment(tmp_path, keys=keys) as running:

        async def start(key: str, name: str):
            headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": name}
            return await running.http.post("/start?wait=none", headers=headers)

        for guessable in ("order-1001", str(uuid.uuid1()), str(uuid.UUID(int=1)), uuid.uuid4().hex):
            refused = await start(page, guessable)
            assert refused.status_code == 400
            assert f"random UUID (crypto.randomUUID()), not '{guessable}'" in refused.json()["detail"]
        assert not running.provider.specs
        name = str(uuid.uuid4())
        first, again = await start(page, name), await start(page, name.upper())
        assert (first.status_code, again.status_code) == (200, 200)
        assert (await start(page, name)).json()["sessionId"] == first.json()["sessionId"]
        assert (await start(server, "order-1001")).status_code == 200, "a server's key is one caller's"
