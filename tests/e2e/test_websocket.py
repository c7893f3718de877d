"""A phone bot of Pipecat's kind behind a real dispatcher, called as Twilio calls.

The messages are those of https://www.twilio.com/docs/voice/media-streams/websocket-messages.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.patience import PATIENCE

from .browser import run_beside_browser
from .dispatcher import BOTS, NO_TLS, Dispatcher, agent

FRAME = 160
"""Bytes of 20 ms of μ-law at 8 kHz."""


def ulaw(samples: np.ndarray) -> bytes:
    """G.711's μ-law of samples from -1 to 1."""
    value = np.clip(np.abs(samples) * 32635, 0, 32635).astype(np.int64) + 132
    exponent = np.floor(np.log2(value)).astype(np.int64) - 7
    mantissa = (value >> (exponent + 3)) & 0x0F
    sign = np.where(samples < 0, 0x80, 0)
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


def linear(data: bytes) -> np.ndarray:
    code = ~np.frombuffer(data, np.uint8).astype(np.int64) & 0xFF
    value = (((code & 0x0F) << 3) + 132 << ((code >> 4) & 0x07)) - 132
    return np.where(code & 0x80, -value, value) / 32635


def speech(seconds: float) -> np.ndarray:
    """A tone that rises, so that every part differs from every other."""
    time = np.arange(int(seconds * 8000)) / 8000
    return 0.5 * np.sin(2 * np.pi * (300 + 500 * time) * time)


def start(served: Dispatcher, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{served.url}/start", json=body, timeout=PATIENCE, verify=NO_TLS)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def call(connection: ClientConnection, sound: np.ndarray) -> np.ndarray:
    """Say it in frames of 20 ms, in the time that it takes; return what is heard until as much has come."""

    async def say() -> None:
        data = ulaw(sound)
        for begin in range(0, len(data), FRAME):
            payload = base64.b64encode(data[begin : begin + FRAME]).decode()
            await connection.send(
                json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": payload}})
            )
            await asyncio.sleep(0.02)

    await connection.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
    begin = {"streamSid": "MZ1", "callSid": "CA1", "customParameters": {"from_number": "+14155550123"}}
    await connection.send(json.dumps({"event": "start", "start": begin, "streamSid": "MZ1"}))
    saying = asyncio.create_task(say())
    heard = b""
    async with asyncio.timeout(PATIENCE):
        while len(heard) < 0.7 * len(sound):
            message = json.loads(await connection.recv())
            if message["event"] == "media":
                assert message["streamSid"] == "MZ1"
                heard += base64.b64decode(message["media"]["payload"])
    await saying
    return linear(heard)


def likeness(said: np.ndarray, heard: np.ndarray) -> float:
    """The highest correlation of what was heard with any part of what was said."""
    heard = heard[800 : 800 + 4000]
    pieces = np.lib.stride_tricks.sliding_window_view(said, len(heard))
    products = pieces @ heard
    return float(np.max(products / (np.linalg.norm(pieces, axis=1) * np.linalg.norm(heard) + 1e-9)))


def test_phone_bot_echoes_callers_voice_and_ends_when_caller_hangs_up(start_dispatcher):
    served = start_dispatcher(phone=agent(BOTS / "phone.py", transports=["websocket"]))
    started = start(served, transport="websocket", body={"shop": "Müller"})
    assert started["wsUrl"] == f"ws://127.0.0.1:{served.port}/sessions/{started['sessionId']}/ws"
    said = speech(3.0)

    async def talk() -> np.ndarray:
        address = f"{started['wsUrl']}?token={started['token']}"
        async with connect(address, proxy=None, open_timeout=PATIENCE) as connection:
            heard = await call(connection, said)
            with pytest.raises(InvalidStatus, match="403"):
                await connect(address, proxy=None, open_timeout=PATIENCE)
            return heard

    heard = run_beside_browser(talk())
    assert likeness(said, heard) > 0.95
    assert likeness(said[::-1], heard) < 0.7
    over = served.wait_until_over(started["sessionId"])
    assert (over["state"], over["reason"], over["transport"]) == ("ended", "completed", "websocket")
    assert over["activeAt"] is not None
    assert started["token"] not in served.log.read_text()


def test_callers_socket_is_closed_when_session_is_stopped(start_dispatcher):
    served = start_dispatcher(phone=agent(BOTS / "phone.py", transports=["websocket"]))
    started = start(served, body={"shop": "Müller"})

    async def talk() -> int | None:
        address = f"{started['wsUrl']}?token={started['token']}"
        async with connect(address, proxy=None, open_timeout=PATIENCE) as connection:
            await call(connection, speech(1.0))
            stopping = asyncio.to_thread(served.request, "DELETE", f"/sessions/{started['sessionId']}")
            stopped = asyncio.create_task(stopping)
            async with asyncio.timeout(PATIENCE):
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await connection.recv()
            await stopped
            return connection.close_code

    assert run_beside_browser(talk()) == 1000
    assert served.wait_until_over(started["sessionId"])["reason"] == "stopped"
