"""The echo bot, called over a real peer connection: every claim is about sound that arrived."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from bot.agents import echo
from tests.patience import PATIENCE

from .caller import ON_THE_WAY, SAMPLE_RATE, Caller, Samples, call, likeness, recording

pytestmark = pytest.mark.calls

HERE = Path(__file__).parent
BOT_FILE = Path(echo.__file__)
GREETING = recording(BOT_FILE.with_name("greeting.wav"))
SENTENCE = recording(HERE / "sentence.wav")
OBJECTION = recording(HERE / "objection.wav")

ALIKE = 0.5
"""Of `likeness`: twice through Opus, a recording scores 0.75 and more; another one under 0.35."""


def seconds(samples: Samples) -> float:
    return len(samples) / SAMPLE_RATE


async def test_it_greets_as_soon_as_the_client_is_there_and_says_back_what_was_said() -> None:
    async with call(echo.bot) as session:
        caller = session.caller
        await caller.until_spoken()
        assert likeness(GREETING, caller.heard()) > ALIKE
        assert caller.sounded_at()[0] - caller.connected_at < 1.0
        caller.say(SENTENCE)
        started, stopped = await caller.until_spoken(2)
        echoed = caller.heard(since=started)
        assert likeness(SENTENCE, echoed) > ALIKE
        # Whole: neither its first words nor its last ones are cut off, and little silence is around it.
        assert likeness(SENTENCE[: SAMPLE_RATE // 2], echoed[:SAMPLE_RATE]) > ALIKE
        assert likeness(SENTENCE[-SAMPLE_RATE // 2 :], echoed) > ALIKE
        assert seconds(SENTENCE) < stopped - started < seconds(SENTENCE) + 0.7
        assert started - caller.microphone.said_until < 1.2
        kinds = [kind for _, kind in caller.events]
        assert "bot-ready" in kinds
        speaking = [kind for kind in kinds if kind.endswith("-speaking")]
        assert speaking == [
            *("bot-started-speaking", "bot-stopped-speaking"),
            *("user-started-speaking", "user-stopped-speaking"),
            *("bot-started-speaking", "bot-stopped-speaking"),
        ]


async def test_a_user_who_speaks_stops_the_greeting() -> None:
    async with call(echo.bot) as session:
        caller = session.caller
        await caller.until(lambda: len(caller.sounded_at()) > 25, 5, "half a second of greeting")
        caller.say(OBJECTION)
        interrupted = await caller.until_event("user-started-speaking")
        started, _ = await caller.until_spoken(2)
        assert likeness(OBJECTION, caller.heard(since=started)) > ALIKE
        assert not [at for at in caller.sounded_at(interrupted + ON_THE_WAY) if at < started]
        assert likeness(GREETING[-SAMPLE_RATE:], caller.heard()) < ALIKE, "it went on to its end"


async def test_a_user_who_speaks_stops_the_echo_and_is_echoed_instead() -> None:
    async with call(echo.bot) as session:
        caller = session.caller
        await caller.until_event("bot-started-speaking")
        caller.say(SENTENCE)
        first = await caller.until_event("bot-started-speaking", count=2)
        await caller.until(lambda: len(caller.sounded_at(first)) > 50, 5, "a second of echo")
        caller.say(OBJECTION)
        interrupted = await caller.until_event("user-started-speaking", count=2)
        started, _ = await caller.until_spoken(3)
        assert likeness(SENTENCE[:SAMPLE_RATE], caller.heard(since=first)) > ALIKE
        assert likeness(OBJECTION, caller.heard(since=started)) > ALIKE
        assert not [at for at in caller.sounded_at(interrupted + ON_THE_WAY) if at < started]
        assert likeness(SENTENCE[-SAMPLE_RATE:], caller.heard(since=first)) < ALIKE, "it was finished"


async def test_noise_neither_interrupts_nor_is_answered() -> None:
    async with call(echo.bot) as session:
        caller = session.caller
        caller.say(np.random.default_rng(7).normal(0, 400, 2 * SAMPLE_RATE).astype(np.int16))
        await caller.until_spoken()
        assert likeness(GREETING, caller.heard()) > ALIKE
        assert caller.times_of("user-started-speaking") == []


async def test_the_bot_ends_when_its_client_leaves() -> None:
    async with call(echo.bot) as session:
        await session.caller.until_event("bot-started-speaking")
        await session.caller.hang_up()
        await asyncio.wait([session.bot], timeout=3)
        assert session.bot.done()


@asynccontextmanager
async def development_runner(bot_file: Path) -> AsyncIterator[str]:
    """Pipecat's development runner with a bot file, as its users start it; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    warnings = ["-W", "error::DeprecationWarning", "-W", "ignore:'audioop' is deprecated"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *warnings, str(bot_file), "-t", "webrtc", "--port", str(port)),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(PATIENCE):
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{port}/openapi.json")
                    break
                except httpx.TransportError:
                    assert process.returncode is None, f"the runner ended with {process.returncode}"
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


async def test_it_runs_under_the_development_runner() -> None:
    async with development_runner(BOT_FILE) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:

        async def exchange(offer: dict[str, str]) -> dict[str, str]:
            started = (await client.post("/start", json={"transport": "webrtc"})).raise_for_status().json()
            answer = await client.post(f"/sessions/{started['sessionId']}/api/offer", json=offer)
            return answer.raise_for_status().json()

        caller = Caller()
        await caller.call(exchange)
        try:
            await caller.until_spoken()
            assert likeness(GREETING, caller.heard()) > ALIKE
        finally:
            await caller.hang_up()
