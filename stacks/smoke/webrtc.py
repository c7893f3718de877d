"""A caller over SmallWebRTC: it offers as Pipecat's JavaScript client does, speaks, and hears the bot."""

from __future__ import annotations

import asyncio
import fractions
import json
import secrets
import time
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from stacks.errors import SmokeError
from stacks.smoke.http import OVER, Session

DEATH_SECONDS = 15.0
"""For the dispatcher to notice that a machine is gone: three heartbeats."""

PING_SECONDS = 1.0
"""Pause between pings, as the JavaScript client's: Pipecat takes a client that was silent for 3 s for
gone."""

WATCH_SECONDS = 1.0
"""Between two looks at the session's record."""

AUDIBLE = 0.01
"""Least loudness of a sound, as a share of the loudest sample that there is."""

FRAME_SECONDS = 0.02
PAUSE_SECONDS = 4.0
"""Between two sentences, in which a bot may answer."""

VOICE = Path(__file__).parents[2] / "bot" / "agents" / "greeting.wav"
RTVI_VERSION = "1.0.0"

LEFT = "the bot left the call"

T = TypeVar("T")
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """Seconds that each step of a call may take."""

    connect: float = 30.0
    """ICE and DTLS: aiortc gives a pair of candidates up after some 20 s."""
    ready: float = 30.0
    sound: float = 30.0
    """A bot that waits for its caller to speak asks three services before it answers."""


LIMITS = Limits()


class Voice(MediaStreamTrack):
    """A microphone: one sentence, a pause, and again, from when the bot is ready; silence before."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        with wave.open(str(VOICE)) as file:
            self._rate = file.getframerate()
            sentence = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        self._samples = np.concatenate([sentence, np.zeros(round(PAUSE_SECONDS * self._rate), np.int16)])
        self._per_frame = round(FRAME_SECONDS * self._rate)
        self._sent = 0
        self._began: float | None = None
        self._speaks_from: int | None = None

    def speak(self) -> None:
        self._speaks_from = self._sent

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms, when it is time for them."""
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._sent / self._rate - loop.time())
        frame = AudioFrame.from_ndarray(self._next().reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._sent
        frame.time_base = fractions.Fraction(1, self._rate)
        self._sent += self._per_frame
        return frame

    def _next(self) -> np.ndarray:
        if self._speaks_from is None:
            return np.zeros(self._per_frame, np.int16)
        at = np.arange(self._per_frame) + self._sent - self._speaks_from
        return self._samples[at % len(self._samples)]


class Caller:
    """One peer connection, and what came over it."""

    def __init__(self, session: Session, limits: Limits) -> None:
        self._limits = limits
        servers = [RTCIceServer(**server) for server in session.ice_servers]
        self._session = session
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._voice = Voice()
        self._pc.addTrack(self._voice)
        self._channel = self._pc.createDataChannel("chat", ordered=True)
        loop = asyncio.get_running_loop()
        self._open: asyncio.Future[None] = loop.create_future()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._track: asyncio.Future[MediaStreamTrack] = loop.create_future()
        self._left: asyncio.Future[None] = loop.create_future()
        self._pc.on("track", self._on_track)
        self._pc.on("connectionstatechange", self._on_state)
        self._channel.on("open", lambda: _settle(self._open))
        self._channel.on("message", self._on_message)

    async def offer(self) -> None:
        """Send the offer, and take the answer. Raise SmokeError if the bot gives none."""
        await self._pc.setLocalDescription(await self._pc.createOffer())
        local = self._pc.localDescription
        content = {"sdp": local.sdp, "type": local.type, "pc_id": None, "restart_pc": False}
        try:
            answer = await asyncio.to_thread(self._session.ask, "POST", "/api/offer", json=content)
        except SmokeError as error:
            raise SmokeError(f"the bot did not answer the offer: {error}") from None
        await self._pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))

    async def connect(self) -> None:
        """Wait for the media connection and its data channel."""
        if not await self._within(self._limits.connect, self._open):
            raise SmokeError(
                "the bot answered the offer, but no media connection came about within "
                f"{self._limits.connect:.0f} s (ICE: {self._pc.iceConnectionState}): UDP must get through "
                "between this machine and the bot's, or the stack needs a TURN server"
            )

    async def become_ready(self) -> None:
        """Say that the client is ready, and wait until the bot says that it is."""
        data = {"version": RTVI_VERSION, "about": {"library": "switchboard-smoke"}}
        message = {"label": "rtvi-ai", "type": "client-ready", "id": secrets.token_hex(4), "data": data}
        self._channel.send(json.dumps(message))
        if not await self._within(self._limits.ready, self._ready):
            self._raise_if_left()
            raise SmokeError(
                "the media connection stands, but the bot did not say `bot-ready` over the data channel "
                f"within {self._limits.ready:.0f} s: its pipeline needs RTVI, which Pipecat's PipelineWorker "
                "adds by default"
            )

    async def hear(self) -> None:
        """Speak, and wait for the bot's first sound."""
        self._voice.speak()
        if not await self._within(self._limits.sound, self._first_sound()):
            self._raise_if_left()
            raise SmokeError(
                "the bot is ready and its caller spoke, but no sound came from the bot within "
                f"{self._limits.sound:.0f} s: look at its speech service, its keys (the agent's `env`) and "
                "the audio output of its transport"
            )

    async def ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            if self._channel.readyState == "open":
                self._channel.send(f"ping: {round(time.time() * 1000)}")

    async def close(self) -> None:
        await self._pc.close()

    async def _within(self, seconds: float, awaited: Awaitable[None]) -> bool:
        """Return False if it takes longer, or if the connection ends first."""
        wanted = asyncio.ensure_future(awaited)
        try:
            await asyncio.wait([wanted, self._left], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                wanted.result()
                return True
            return False
        finally:
            wanted.cancel()

    def _raise_if_left(self) -> None:
        if self._left.done():
            raise SmokeError(LEFT)

    async def _first_sound(self) -> None:
        track = await self._track
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                raise SmokeError(LEFT) from None
            if isinstance(frame, AudioFrame) and _loudness(frame) >= AUDIBLE:
                return

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            _settle(self._track, track)

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            _settle(self._left)

    def _on_message(self, message: str) -> None:
        content = json.loads(message)
        if content.get("label") == "rtvi-ai" and content.get("type") == "bot-ready":
            _settle(self._ready)
        elif content.get("type") == "signalling" and content["message"]["type"] == "peerLeft":
            _settle(self._left)


def call(session: Session, tell: Tell, limits: Limits = LIMITS) -> str:
    """Talk with the session's bot, telling each step and its seconds; return what was checked.

    Raises:
        SmokeError: no sound came from the bot: the text says how far it got and why.
    """
    asyncio.run(_call(session, tell, limits))
    return "a caller heard the bot"


async def _call(session: Session, tell: Tell, limits: Limits) -> None:
    caller = Caller(session, limits)
    talk = asyncio.create_task(_talk(caller, tell))
    watch = asyncio.create_task(_watch(session))
    ping = asyncio.create_task(caller.ping())
    try:
        await asyncio.wait([talk, watch], return_when=asyncio.FIRST_COMPLETED)
        if talk.done() and talk.exception() is None:
            return
        # A machine that died shows as a bot that left, before the dispatcher knows why.
        if not watch.done() and (error := talk.exception()) and str(error) == LEFT:
            await asyncio.wait([watch], timeout=DEATH_SECONDS)
        if watch.done():
            watch.result()
        talk.result()
    finally:
        tasks = (talk, watch, ping)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await caller.close()


async def _talk(caller: Caller, tell: Tell) -> None:
    began = time.monotonic()
    steps = (
        (caller.offer, "the bot answered the caller's offer"),
        (caller.connect, "the media connection stands"),
        (caller.become_ready, "the bot says that it is ready"),
        (caller.hear, "the bot's first sound arrived"),
    )
    for step, text in steps:
        step_began = time.monotonic()
        await step()
        now = time.monotonic()
        tell(f"{text} after {now - step_began:.1f} s ({now - began:.1f} s into the call)")


async def _watch(session: Session) -> None:
    """Raise SmokeError once the dispatcher says that the session is over; return never."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        record = await asyncio.to_thread(session.record)
        if record["state"] in OVER:
            raise SmokeError(
                f"the session is over in the midst of the call: {record['reason']}: {record['message']}"
            )


def _loudness(frame: AudioFrame) -> float:
    return float(np.abs(frame.to_ndarray().astype(np.float32)).max()) / 32768


def _settle(future: asyncio.Future[T], value: T | None = None) -> None:
    if not future.done():
        future.set_result(value)  # pyright: ignore[reportArgumentType]
