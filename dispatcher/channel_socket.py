"""The WebSocket under a machine's channel: aborted if the machine does not read, counted until it is
authenticated.

Uvicorn's own waits without a limit: a send waits for the buffer to empty, and a close for its content to be
taken, even after an unanswered ping. A machine that reads nothing would block every send to it for as long as
it lives. And after a close it waits 10 s for the peer's answer, while the connection keeps its descriptor.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dispatcher.admissions import Admissions
from dispatcher.api.auth import ADMIT

_log = logging.getLogger("uvicorn.error.channels")
"""Logs a few lines for each connection: `telemetry.logs` passes them on at level debug only."""

WRITE_SECONDS = 30.0
"""Limit on the time that a connection's buffer stays over its high-water mark (64 KiB, asyncio's own).

The largest message, 4 MB, takes that long at 1.1 Mbit/s.
"""


class ChannelSocket(WebSocketsSansIOProtocol):
    """Uvicorn's WebSocket connection, aborted if its peer does not read.

    It counts as unauthenticated until the app admits it, and again from the dispatcher's close until the
    peer's.
    """

    admissions: ClassVar[Admissions | None] = None
    """Counts the connections; None where nothing is counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = self.conn.logger = _log
        self.app_state = {**self.app_state, ADMIT: self._admit}
        self._write_timer: asyncio.TimerHandle | None = None
        self._admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.admissions is not None:
            self.admissions.closed(self)
        super().connection_lost(exc)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.close_sent and self._admitted and not self.transport.is_closing():
            self._admitted = False
            self._count()

    def abort(self) -> None:
        self.transport.abort()

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

    def _admit(self) -> bool:
        if not self.close_sent:
            self._admitted = True
            if self.admissions is not None:
                self.admissions.closed(self)
        return True

    def _count(self) -> None:
        if self.admissions is not None:
            self.admissions.opened(self, self.client[0] if self.client else "")

    def _stop_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def counted(admissions: Admissions) -> type[ChannelSocket]:
    """Return a WebSocket protocol whose connections are counted by `admissions`."""
    return type("CountedSocket", (ChannelSocket,), {"admissions": admissions})
