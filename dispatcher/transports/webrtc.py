"""SmallWebRTC: audio goes peer to peer, and offers and candidates go through the session's proxy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dispatcher.settings import IceServer
from dispatcher.transports.transport import Opened, Wanted

DEFAULT_ICE_SERVERS: tuple[dict[str, Any], ...] = ({"urls": ["stun:stun.l.google.com:19302"]},)
"""What a client gets that asks for the default servers where none are configured; the same server as
Pipecat's development runner gives."""


class WebRTC:
    """The `webrtc` transport.

    Args:
        ice_servers: The STUN and TURN servers of this deployment, for bots and for clients that ask.
    """

    ready_needs_client = True

    def __init__(self, ice_servers: Sequence[IceServer]) -> None:
        self._ice_servers = tuple(server.model_dump(mode="json", exclude_none=True) for server in ice_servers)

    async def open(self, session_id: str, wanted: Wanted) -> Opened:
        client: dict[str, Any] = {}
        if wanted.enable_default_ice_servers or self._ice_servers:
            client["iceConfig"] = {"iceServers": list(self._ice_servers or DEFAULT_ICE_SERVERS)}
        return Opened(client, self._ice_servers)
