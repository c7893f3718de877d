"""Calls of fake carriers to a real dispatcher, with a recorded voice, for a bot of Pipecat's kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import wave
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.patience import PATIENCE
from tests.phone.carriers import ACCOUNTS, NAMES, SECRETS, FakeCall, read

from .browser import run_beside_browser
from .dispatcher import BOTS, NO_TLS, Dispatcher, agent
from .test_websocket import likeness, linear, ulaw

VOICE = Path(__file__).parent / "voices" / "fox.wav"
SECONDS = 3


def voice() -> np.ndarray:
    """The recorded caller at 8 kHz, as samples from -1 to 1."""
    with wave.open(str(VOICE)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    at = np.arange(SECONDS * 8000) * rate / 8000
    return np.interp(at, np.arange(len(samples)), samples)


def frames(carrier: str, sound: np.ndarray) -> list[bytes]:
    """20 ms each."""
    data = (sound * 32767).astype("<i2").tobytes() if carrier == "exotel" else ulaw(sound)
    size = 320 if carrier == "exotel" else 160
    return [data[at : at + size] for at in range(0, len(data), size)]


def samples(carrier: str, data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2") / 32768 if carrier == "exotel" else linear(data)


def ring(served: Dispatcher, call: FakeCall, after: str = "") -> httpx.Response:
    with httpx.Client(timeout=PATIENCE, verify=NO_TLS, trust_env=False) as http:
        return http.send(call.webhook(f"{served.url}/telephony/{call.carrier}/phone{after}"))


class Listening:
    """What the caller hears."""

    def __init__(self, call: FakeCall, stream: ClientConnection) -> None:
        self._call = call
        self._stream = stream
        self._changed = asyncio.Event()
        self.heard = b""
        self.clears = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = json.loads(await self._stream.recv())
                if message["event"].startswith("clear"):
                    self.clears += 1
                self.heard += self._call.heard(message)
                self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not reached():
                self._changed.clear()
                await self._changed.wait()


@pytest.mark.parametrize("carrier", NAMES)
def test_caller_hears_bot_say_back_what_was_said(start_dispatcher, carrier):
    served = start_dispatcher(
        phone=agent(BOTS / "phones.py", transports=["websocket"]),
        more={
            "PHONE": json.dumps(ACCOUNTS),
            **{name.upper(): value for name, value in SECRETS.items()},
        },
    )
    call = FakeCall(carrier)
    answer = read(ring(served, call))
    assert read(ring(served, call)).stream == answer.stream
    session_id = answer.stream.split("/")[4]
    said = voice()

    async def talk() -> bytes:
        async with connect(answer.stream, proxy=None, open_timeout=PATIENCE) as stream:
            for message in call.opening(answer.parameters):
                await stream.send(message)
            listening = Listening(call, stream)
            silent = frames(carrier, np.zeros(160))[0]
            while served.session(session_id)["activeAt"] is None:
                await stream.send(call.media(silent))  # carriers send all the time
                await asyncio.sleep(0.05)
            # What was said before, the ringing and its end, has arrived when this is answered.
            await (await stream.ping())
            listening.heard = b""
            spoken = frames(carrier, said)

            async def say() -> None:
                for frame in spoken:
                    await stream.send(call.media(frame))
                    await asyncio.sleep(0.02)

            saying = asyncio.create_task(say())
            await listening.until(lambda: len(listening.heard) >= 0.7 * sum(map(len, spoken)))
            await saying
            heard, clears = listening.heard, listening.clears
            if carrier in ("twilio", "telnyx"):
                await stream.send(json.dumps({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"digit": "5"}}))
                await listening.until(lambda: listening.clears > clears)
            await stream.send(call.stop())
            await stream.close()
            return heard

    # Without the first 0.4 s, in which silence may still be said back.
    heard = samples(carrier, run_beside_browser(talk()))[3200:]
    assert likeness(said, heard) > 0.9
    assert likeness(said[::-1], heard) < 0.7
    over = served.wait_until_over(session_id)
    assert (over["state"], over["reason"]) == ("ended", "completed")
    if carrier != "exotel":
        assert read(ring(served, call, "/after")).verbs == ("Hangup",)
    assert answer.stream.rpartition("/")[2] not in served.log.read_text()


def test_call_is_over_for_caller_when_session_is_stopped(start_dispatcher):
    served = start_dispatcher(
        phone=agent(BOTS / "phones.py", transports=["websocket"]),
        more={"PHONE": json.dumps({"telnyxPublicKey": ACCOUNTS["telnyxPublicKey"]})},
    )
    call = FakeCall("telnyx")
    answer = read(ring(served, call))
    session_id = answer.stream.split("/")[4]

    async def talk() -> int | None:
        async with connect(answer.stream, proxy=None, open_timeout=PATIENCE) as stream:
            for message in call.opening(answer.parameters):
                await stream.send(message)
            while served.session(session_id)["activeAt"] is None:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(served.request, "DELETE", f"/sessions/{session_id}")
            async with asyncio.timeout(PATIENCE):
                try:
                    while True:
                        await stream.recv()
                except ConnectionClosed:
                    return stream.close_code

    assert run_beside_browser(talk()) == 1000
    assert read(ring(served, call, "/after")).verbs == ("Hangup",)
