"""The transport peer to peer. It has no settings of its own: STUN and TURN servers are the deployment's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.transports.settings import TransportContext, TransportSettings

if TYPE_CHECKING:
    from dispatcher.transports.transport import Transport


class WebRTCSettings(TransportSettings):
    """Audio goes peer to peer."""

    @classmethod
    def build(cls, context: TransportContext) -> Transport:
        from dispatcher.transports.webrtc.transport import WebRTC

        return WebRTC(context.ice_servers, context.turn)
