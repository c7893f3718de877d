"""A peer connection that stands as soon as it was offered one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class IceServer(SimpleNamespace):
    pass


class SmallWebRTCConnection:
    def __init__(self, ice_servers: list[IceServer]) -> None:
        self.pc_id = uuid.uuid4().hex
        self.pc = SimpleNamespace(connectionState="new")

    async def initialize(self, sdp: str, type: str) -> None:
        self.pc.connectionState = "connected"

    async def renegotiate(self, sdp: str, type: str, restart_pc: bool) -> None:
        self.pc.connectionState = "connected"

    def get_answer(self) -> dict[str, str]:
        return {"sdp": "answer", "type": "answer", "pc_id": self.pc_id}

    def add_event_handler(self, name: str, handler: Callable[..., Any]) -> None:
        """The client never goes by itself."""

    def audio_input_track(self) -> None:
        """No audio comes."""

    async def disconnect(self) -> None:
        self.pc.connectionState = "closed"
