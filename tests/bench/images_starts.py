"""Starts of images, for the bench of images: a container, its first client, and what its bot wrote down."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from bot.protocol import MACHINE_TOKEN_VARIABLE, Hello, entrypoint_arguments
from tests.bot.client import client
from tests.bot.dispatcher import TOKEN, assignment, dispatcher
from tests.engine import Engine
from tests.ports import free_port

PATIENCE = 120.0
"""Seconds for one start."""


@dataclass(frozen=True)
class Start:
    """When `docker start` was called, and what the bot wrote down (tests/bench/image_bot). Seconds."""

    asked: float
    marks: dict[str, float]
    begun: float = 0.0
    """When the client asked for the session; without a dispatcher, the time before `docker create`."""

    @property
    def cpu(self) -> float:
        """CPU time of the bot's process, all threads, until its pipeline ran."""
        return self.marks["cpu"]

    def until(self, mark: str) -> float:
        return self.marks[mark] - self.asked

    def since_click(self, mark: str) -> float | None:
        """Seconds from the client's request, or from the first call to the engine where there is no
        dispatcher; None for a step that this kind of start has not."""
        return self.marks[mark] - self.begun if mark in self.marks else None


async def start_ours(engine: Engine, image: str, cpus: float, cold: bool) -> Start:
    """Start our image: an offer is held until the machine can answer it, as by our dispatcher."""
    async with dispatcher() as served, client() as caller:
        offer = await caller.offer()
        command = (
            *("--env", f"{MACHINE_TOKEN_VARIABLE}={TOKEN}", "--read-only", image),
            *entrypoint_arguments("m-1", served.url, assignment("webrtc")),
        )

        async def connect(marks: dict[str, float]) -> None:
            await served.wait_for(Hello)
            marks["channel"] = time.time()
            status, answer = await served.call("POST", "api/offer", offer)
            marks["answered"] = time.time()
            assert status == 200, answer
            await caller.accept(answer)

        return await _start(engine, command, cpus, cold, connect)


async def start_obvious(engine: Engine, image: str, cpus: float, cold: bool) -> Start:
    """Start the obvious image: the runner is asked until its port is open."""
    port = free_port()
    async with client() as caller, httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
        offer = await caller.offer()
        command = (image, "python3", "bot.py", "--transport", "webrtc", "--port", str(port))

        async def connect(marks: dict[str, float]) -> None:
            while True:
                try:
                    answer = await http.post(f"http://127.0.0.1:{port}/api/offer", json=offer)
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.02)
            marks["answered"] = time.time()
            answer.raise_for_status()
            await caller.accept(answer.json())

        return await _start(engine, command, cpus, cold, connect)


async def _start(
    engine: Engine,
    command: tuple[str, ...],
    cpus: float,
    cold: bool,
    connect: Callable[[dict[str, float]], Awaitable[None]],
) -> Start:
    """Start a container and be its first client, until its bot has said how long all of it took."""

    async def docker(*arguments: str) -> str:
        return await asyncio.to_thread(engine.docker, *arguments)

    options = ("--network", "host", "--cpus", str(cpus), "--memory", "1g", "--tmpfs", "/tmp")
    seen: dict[str, float] = {}
    begun = time.time()
    container = await docker("create", *options, *command)
    seen["created"] = time.time()
    try:
        if cold:
            await asyncio.to_thread(_drop_page_cache)
        asked = time.time()
        async with asyncio.timeout(PATIENCE):
            connecting = asyncio.ensure_future(connect(seen))
            await docker("start", container)
            seen["started"] = time.time()
            await connecting
            while not (marks := marks_in(await docker("logs", container))):
                await asyncio.sleep(0.2)
        return Start(asked, seen | marks, begun)
    except TimeoutError:
        said = await docker("logs", "--tail", "30", container)
        raise RuntimeError(f"the bot did not get there within {PATIENCE:g} s; its log:\n{said}") from None
    finally:
        await docker("rm", "--force", container)


def marks_in(log: str) -> dict[str, float]:
    """Return what the bot wrote down, from its output; empty if it has not yet."""
    said = [line for line in log.splitlines() if line.startswith("MARKS ")]
    return json.loads(said[0].removeprefix("MARKS ")) if said else {}


def _drop_page_cache() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
