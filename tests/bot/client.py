"""A client as Pipecat's JavaScript one: offers, trickles candidates, speaks on a data channel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
from aiortc import AudioStreamTrack, MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame

from tests.bot.dispatcher import Dispatcher
from tests.patience import PATIENCE


class Client:
    """One peer connection with a microphone that is silent."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection()
        self.pc.addTrack(AudioStreamTrack())
        self.channel = self.pc.createDataChannel("chat", ordered=True)
        self.pc_id: str | None = None
        self.track: asyncio.Future[MediaStreamTrack] = asyncio.get_running_loop().create_future()
        self.left = asyncio.Event()
        self.pc.on("track", self._on_track)
        self.channel.on("message", self._on_message)

    async def offer(self, restart: bool = False, **fields) -> dict:
        """The body of `POST api/offer`."""
        await self.pc.setLocalDescription(await self.pc.createOffer())
        local = self.pc.localDescription
        return {"sdp": local.sdp, "type": local.type, "pc_id": self.pc_id, "restart_pc": restart, **fields}

    async def accept(self, answer: dict) -> None:
        self.pc_id = answer["pc_id"]
        await self.pc.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))

    async def connect(self, dispatcher: Dispatcher, **fields) -> None:
        status, answer = await dispatcher.call("POST", "api/offer", await self.offer(**fields))
        assert status == 200, answer
        await self.accept(answer)

    async def loudness(self) -> float:
        """The highest sample of the first audio that is not silence, from 0 to 1."""
        while (peak := await self._peak()) < 0.01:
            pass
        return peak

    async def quiet(self) -> None:
        """Return when there has been silence for half a second."""
        silent = 0
        while silent < 25:
            silent = silent + 1 if await self._peak() < 0.01 else 0

    async def _peak(self) -> float:
        """The highest sample of the next 20 ms."""
        async with asyncio.timeout(PATIENCE):
            frame = await (await self.track).recv()
        assert isinstance(frame, AudioFrame)
        return float(np.abs(frame.to_ndarray().astype(float)).max()) / 32768

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and not self.track.done():
            self.track.set_result(track)

    def _on_message(self, message: str) -> None:
        body = json.loads(message)
        if body.get("type") == "signalling" and body["message"]["type"] == "peerLeft":
            self.left.set()


@asynccontextmanager
async def client() -> AsyncIterator[Client]:
    running = Client()
    try:
        yield running
    finally:
        await running.pc.close()
