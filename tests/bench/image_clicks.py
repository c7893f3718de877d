"""Starts through a dispatcher, from a client's `POST /start`: in containers, and as processes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from dispatcher.keys import hash_of, new_key
from tests.bench.images_starts import PATIENCE, Start, marks_in
from tests.bot.client import client
from tests.e2e.dispatcher import Dispatcher, agent
from tests.engine import Engine
from tests.ports import free_port

AGENT = "quickstart"

KEY = new_key(public=False)
KEYS = [{"name": "bench", "hash": hash_of(KEY), "scope": "admin"}]

MEMORY_MB = 1024

EVENTS = {"queued": "row", "machine-started": "machine", "ready": "ready", "machine-gone": "gone"}
"""Event of a session's timeline → mark."""


@contextmanager
def containers(engine: Engine, image: str, directory: Path, cpus: float) -> Iterator[Dispatcher]:
    """Run a dispatcher on this host whose machines are containers of the engine's default network."""
    port = free_port()
    placement = {"provider": "container", "engineUrl": engine.url, "deployment": "bench"}
    settings = {"image": image, "cpu": cpus, "memoryMb": MEMORY_MB}
    more = {
        "HOST": "0.0.0.0",
        "MACHINE_URL": f"http://host.docker.internal:{port}",
        "PLACEMENTS": json.dumps({"engine": placement}),
    }
    with _running(
        Dispatcher(directory, {AGENT: agent(Path("bot.py"), **settings)}, KEYS, port, more=more)
    ) as it:
        yield it


@contextmanager
def processes(bot: Path, directory: Path) -> Iterator[Dispatcher]:
    """Run a dispatcher as a `local` stack does: its machines are forked from a template."""
    with _running(Dispatcher(directory, {AGENT: agent(bot)}, KEYS)) as started:
        started.wait_for_templates()
        yield started


@contextmanager
def _running(dispatcher: Dispatcher) -> Iterator[Dispatcher]:
    dispatcher.directory.mkdir()
    try:
        dispatcher.start()
        yield dispatcher
    finally:
        dispatcher.stop()


async def click(dispatcher: Dispatcher) -> Start:
    """Start a session, offer it a call once the start is answered, and stop it when its bot is ready."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        client() as caller,
        httpx.AsyncClient(
            base_url=dispatcher.url, headers=headers, trust_env=False, timeout=PATIENCE, verify=False
        ) as http,
    ):
        offer = await caller.offer()
        clicked = time.time()
        started = await http.post(f"/v1/public/{AGENT}/start", json={"transport": "webrtc"})
        marks = {"told": time.time()}
        session = started.raise_for_status().json()["sessionId"]
        answer = await http.post(f"/sessions/{session}/api/offer", json=offer)
        marks["answered"] = time.time()
        await caller.accept(answer.raise_for_status().json())
        marks |= await _until(http, session, "ready")
        while not (written := marks_in("\n".join(await _log(http, session)))):
            await _until(http, session, "ready")
        marks |= written
        record = (await http.get(f"/sessions/{session}")).raise_for_status().json()
        # Of the machine's own clock, which begins with its process.
        marks["channel"] = marks["process"] + record["timings"]["connected"] / 1000
        (await http.delete(f"/sessions/{session}")).raise_for_status()
        await _until(http, session, "machine-gone")
        return Start(marks["process"], marks, clicked)


async def _until(http: httpx.AsyncClient, session: str, event: str) -> dict[str, float]:
    """Wait until the session's timeline has the event; return its marks until then."""
    marks: dict[str, float] = {}
    after = 0
    deadline = time.monotonic() + PATIENCE
    while event not in marks:
        assert time.monotonic() < deadline, f"session {session} has no event {event}"
        path = f"/v1/sessions/{session}/events?after={after}&wait=20"
        page: dict[str, Any] = (await http.get(path)).raise_for_status().json()
        for one in page["events"]:
            after = one["id"]
            assert one["event"] != "failed", one
            marks.setdefault(one["event"], datetime.fromisoformat(one["at"]).timestamp())
    return {EVENTS[name]: at for name, at in marks.items() if name in EVENTS}


async def _log(http: httpx.AsyncClient, session: str) -> list[str]:
    return (await http.get(f"/v1/sessions/{session}/logs")).raise_for_status().json()["lines"]
