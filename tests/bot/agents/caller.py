"""A caller for the bots' tests: a real peer connection, which speaks recordings and keeps what it hears."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler
from pipecat.runner.types import RunnerArguments, SmallWebRTCRunnerArguments
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection

SAMPLE_RATE = 16_000
FRAME = SAMPLE_RATE // 50
AUDIBLE = 300
"""Of 32767: above the noise that Opus makes of silence, below any syllable of the recordings."""
ON_THE_WAY = 0.4
"""Seconds for which sound may still arrive after the bot stopped sending it, for the jitter buffer."""

Samples = np.ndarray[Any, np.dtype[np.int16]]
Exchange = Callable[[dict[str, str]], Awaitable[dict[str, str]]]
"""Carries an offer (`sdp`, `type`) to a bot and brings its answer."""


class Microphone(MediaStreamTrack):
    """Silence, and in it what is said, in frames of 20 ms.

    On a busy machine it falls behind the clock rather than send a burst: the bot's end would drop packets of
    that, and a hole in a sentence ends it.
    """

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._to_say: Samples = np.zeros(0, np.int16)
        self._sent = 0
        self._due = 0.0
        self.said_until = 0.0
        """Wall clock, in seconds: when the last word left."""

    def say(self, samples: Samples) -> None:
        self._to_say = np.concatenate([self._to_say, samples])

    async def recv(self) -> AudioFrame:
        self._due = max(self._due + FRAME / SAMPLE_RATE, time.monotonic())
        await asyncio.sleep(self._due - time.monotonic())
        now, self._to_say = self._to_say[:FRAME], self._to_say[FRAME:]
        if now.any():
            self.said_until = time.monotonic()
        frame = AudioFrame.from_ndarray(np.pad(now, (0, FRAME - len(now)))[None, :], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, self._sent, Fraction(1, SAMPLE_RATE)
        self._sent += FRAME
        return frame


class Caller:
    """One end of a call, as a browser with Pipecat's client is the other end of a bot."""

    def __init__(self) -> None:
        self.microphone = Microphone()
        self.events: list[tuple[float, str]] = []
        """(wall clock, type) of every RTVI message of the bot."""
        self.connected_at = 0.0
        self._connection = RTCPeerConnection()
        self._heard: list[tuple[float, Samples, bool]] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, exchange: Exchange) -> None:
        """Connect by one offer and answer, without trickling, and say that the client is ready."""
        self._connection.addTrack(self.microphone)
        channel = self._connection.createDataChannel("chat")
        channel.on("message", self._on_message)
        channel.on("open", lambda: self._on_open(channel))
        self._connection.on("connectionstatechange", self._on_state)
        self._connection.on(
            "track", lambda track: self._tasks.append(asyncio.create_task(self._listen(track)))
        )
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = self._connection.localDescription
        answer = await exchange({"sdp": offer.sdp, "type": offer.type})
        await self._connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))

    async def hang_up(self) -> None:
        await self._connection.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def say(self, samples: Samples) -> None:
        self.microphone.say(samples)

    def heard(self, since: float = 0.0) -> Samples:
        """Sound that arrived after `since` (wall clock), silence included, at `SAMPLE_RATE`."""
        return np.concatenate([np.zeros(0, np.int16), *(part for at, part, _ in self._heard if at >= since)])

    def sounded_at(self, since: float = 0.0) -> list[float]:
        """When audible sound arrived after `since`, per frame of 20 ms."""
        return [at for at, _, audible in self._heard if audible and at >= since]

    def times_of(self, event: str) -> list[float]:
        return [at for at, kind in self.events if kind == event]

    async def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for a condition on what was heard or received.

        Raises:
            AssertionError: it did not come true within `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            kinds = [kind for _, kind in self.events]
            raise AssertionError(f"no {what} within {seconds} s; the bot's events: {kinds}") from None

    async def until_event(self, event: str, count: int = 1, seconds: float = 10.0) -> float:
        """Wait for the `count`-th event of a type; returns when it came."""
        await self.until(lambda: len(self.times_of(event)) >= count, seconds, f"{event} (number {count})")
        return self.times_of(event)[count - 1]

    async def until_spoken(self, count: int = 1, seconds: float = 15.0) -> tuple[float, float]:
        """Wait for the bot to be done with its `count`-th speech, and for the sound that is on the way.

        Returns:
            When it started and when it stopped (wall clock).
        """
        stopped = await self.until_event("bot-stopped-speaking", count, seconds)
        await self.until_listened(stopped + ON_THE_WAY)
        return self.times_of("bot-started-speaking")[count - 1], stopped

    async def until_listened(self, wall_clock: float) -> None:
        """Wait for what arrives until then; silence arrives too."""
        await self.until(lambda: self._heard and self._heard[-1][0] > wall_clock, 10, "sound nor silence")

    def _on_state(self) -> None:
        if self._connection.connectionState == "connected":
            self.connected_at = time.monotonic()
            self._changed.set()

    def _on_open(self, channel: Any) -> None:
        ready = {"version": "2.0.0", "about": {"library": "test"}}
        channel.send(
            json.dumps({"label": "rtvi-ai", "id": str(uuid.uuid4()), "type": "client-ready", "data": ready})
        )
        self._tasks.append(asyncio.create_task(self._ping(channel)))

    async def _ping(self, channel: Any) -> None:
        """Keep the connection alive as Pipecat's client does: the bot takes 3 s without one for an end."""
        while True:
            channel.send(f"ping: {time.time()}")
            await asyncio.sleep(1)

    def _on_message(self, message: str) -> None:
        self.events.append((time.monotonic(), json.loads(message)["type"]))
        self._changed.set()

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = AudioResampler("s16", "mono", SAMPLE_RATE)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            for part in resampler.resample(frame):
                samples = part.to_ndarray()[0]
                self._heard.append((time.monotonic(), samples, int(np.abs(samples).max()) > AUDIBLE))
            self._changed.set()


WINDOW = SAMPLE_RATE // 5
SLACK = SAMPLE_RATE // 4


def likeness(recorded: Samples, heard: Samples) -> float:
    """Compare a recording with the likest stretch of what was heard; 1 is the same signal, at any loudness.

    Pipecat's WebRTC track fills in 10 ms of silence whenever the event loop is late with the next piece, so
    on a busy machine the signals drift apart. The recording is therefore sought in windows of 0.2 s, each
    by up to `SLACK` late; their cross-correlations are weighted by energy, so that quiet ones count little.
    """
    windows = [recorded[at : at + WINDOW] for at in range(0, len(recorded) - WINDOW + 1, WINDOW)]
    places = len(heard) - len(windows) * WINDOW + 1
    if places < 1:
        return 0.0
    padded = np.pad(heard.astype(np.float64), (0, SLACK + 1))
    total, weights = np.zeros(places), 0.0
    for number, window in enumerate(windows):
        sought = window.astype(np.float64)
        part = padded[number * WINDOW : number * WINDOW + places + WINDOW + SLACK]
        energy = float((sought**2).sum())
        total += energy * _best_within_slack(_correlation(sought, part), places)
        weights += energy
    return float(total.max() / weights)


def _correlation(sought: Any, heard: Any) -> Any:
    """The normalised cross-correlation at every place of `sought` in `heard`."""
    size = 1 << (len(heard) + len(sought)).bit_length()
    products = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sought, size)), size)
    energy = np.concatenate([[0.0], np.cumsum(heard**2)])
    under = energy[len(sought) :] - energy[: len(energy) - len(sought)]
    own = (sought**2).sum() or 1.0
    # Near silence is not the recording; the floor keeps it from being scaled up to look like it.
    return products[: len(under)] / np.sqrt(np.maximum(under, 1e-2 * own) * own)


def _best_within_slack(correlation: Any, places: int) -> Any:
    """Take for each place the best value there and up to `SLACK` later, at steps of 10 ms after the first."""
    step = SAMPLE_RATE // 100
    best = correlation[:places].copy()
    for later in range(step, SLACK + 1, step):
        # An inserted gap is a whole number of frames of 10 ms, give or take the resamplers' rounding.
        for off in (-1, 0, 1):
            np.maximum(best, correlation[later + off : later + off + places], out=best)
    return best


def recording(path: Path) -> Samples:
    """A 16-bit mono wav file at `SAMPLE_RATE`."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@dataclass
class Call:
    """A caller, and the bot at the other end, in this process."""

    caller: Caller
    bot: asyncio.Task[None]


@asynccontextmanager
async def call(bot: Callable[[RunnerArguments], Awaitable[None]]) -> AsyncIterator[Call]:
    """Call a bot file's `bot` function over a peer connection on this machine; hangs up at the end."""
    bots: list[asyncio.Task[None]] = []

    async def run(connection: SmallWebRTCConnection) -> None:
        await bot(SmallWebRTCRunnerArguments(webrtc_connection=connection))

    async def exchange(offer: dict[str, str]) -> dict[str, str]:
        connection = SmallWebRTCConnection()
        await connection.initialize(**offer)
        bots.append(asyncio.create_task(run(connection)))
        answer = connection.get_answer()
        assert answer is not None
        return answer

    caller = Caller()
    try:
        await caller.call(exchange)
        yield Call(caller, bots[0])
    finally:
        await caller.hang_up()
        # Not asyncio.timeout: Pipecat's runner takes a cancellation for an ordinary end.
        _, hanging = await asyncio.wait(bots, timeout=10)
        for task in hanging:
            task.cancel()
            # Cancelled a second time, by the end of asyncio.run, it would hang for good.
            await asyncio.wait([task], timeout=10)
        assert not hanging, "the bot goes on although its caller hung up"
        await bots[0]
