"""The transport over a WebSocket. It has no settings of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.transports.settings import TransportContext, TransportSettings

if TYPE_CHECKING:
    from dispatcher.transports.transport import Transport


class WebSocketSettings(TransportSettings):
    """Audio goes over a WebSocket of the client's, through the dispatcher."""

    @classmethod
    def build(cls, context: TransportContext) -> Transport:
        from dispatcher.transports.websocket.transport import WebSocket

        return WebSocket()
