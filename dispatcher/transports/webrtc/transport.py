"""SmallWebRTC: audio goes peer to peer, and offers and candidates go through the session's proxy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dispatcher.transports.settings import IceServer
from dispatcher.transports.transport import Prepared, Wanted
from dispatcher.transports.turn import Turn

DEFAULT_ICE_SERVERS: tuple[dict[str, Any], ...] = ({"urls": ["stun:stun.l.google.com:19302"]},)
"""Servers for a client that asks for the default ones where none are configured; the same server as Pipecat's
development runner gives."""


class WebRTC:
    """The `webrtc` transport.

    Args:
        ice_servers: The STUN and TURN servers of this deployment, for bots and for clients.
        turn: Of TURN servers with which this deployment shares a secret.
    """

    ready_needs_client = True
    prepare_calls = False

    def __init__(self, ice_servers: Sequence[IceServer], turn: Turn | None = None) -> None:
        self._turn = turn
        self._ice_servers = tuple(server.model_dump(mode="json", exclude_none=True) for server in ice_servers)

    def check(self, wanted: Wanted, allowed: Collection[str] = ()) -> None:
        """Accept anything: what is said of rooms is for other transports, as on Pipecat Cloud."""

    async def prepare(self, session_id: str, wanted: Wanted, until: float, deadline: float) -> Prepared:
        servers = self._ice_servers
        if self._turn is not None:
            servers = (*servers, self._turn.server(session_id))
        client: dict[str, Any] = {}
        if wanted.enable_default_ice_servers or servers:
            client["iceConfig"] = {"iceServers": list(servers or DEFAULT_ICE_SERVERS)}
        return Prepared(client, servers)
