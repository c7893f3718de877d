"""What a connection may ask of the server before any of our code sees a request.

Uvicorn's parser takes a URL and headers of any size into memory, waits for ever for a request that is begun,
and for a reader that takes nothing. Here each of these has an end, which the client is told as a problem.
"""

from __future__ import annotations

import asyncio
import http
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dispatcher.api.problems import problem

MAX_URL_BYTES = 8192
MAX_HEAD_BYTES = 32768
"""Of URL and headers. Both are nginx's defaults (large_client_header_buffers, 4 of 8k)."""

HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a further request, to the end of its headers."""

WRITE_SECONDS = 30.0
"""How long a client may take nothing of an answer that waits for it."""


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 connection, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._refused = False
        self._in_head = True
        self._begun = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and not self._refused and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self._write_timer or self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._write_timer = _cancelled(self._write_timer)
        super().resume_writing()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def on_headers_complete(self) -> None:
        self._in_head, self._begun, self._head_bytes = False, False, 0
        self._head_timer = _cancelled(self._head_timer)
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > MAX_URL_BYTES or size > MAX_HEAD_BYTES:
            self._refuse_head()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._refused:
            super().handle_websocket_upgrade()

    def _refuse_head(self) -> None:
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, f"The URL is longer than {MAX_URL_BYTES} bytes.")
        else:
            self._refuse(431, f"The request's line and headers are larger than {MAX_HEAD_BYTES} bytes.")

    def _too_slow(self) -> None:
        if self._begun:
            self._refuse(408, f"The request's headers did not come within {HEAD_SECONDS:g} s.")
        else:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the app, and close."""
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            # An earlier answer is on its way; another one in its midst would be read as part of it.
            self.transport.close()
            return
        answer = problem(status, detail, headers={"Connection": "close"})
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        line = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode()
        self.transport.write(line + headers + b"\r\n" + bytes(answer.body))
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
