"""The WebSocket under a machine's channel: one that is not read is cut off.

Uvicorn's waits without a limit: a send for the buffer to empty, and a close for what is in it to be taken,
also after a ping without an answer. A machine that reads nothing would hold every send to it for as long as
it lives.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

WRITE_SECONDS = 30.0
"""How long a machine may leave its connection's buffer over the mark (64 KiB, asyncio's own). The largest
message, 4 MB, takes that long at 1.1 Mbit/s."""


class ChannelSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket connection, aborted if its peer does not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_timer()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _stop_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
