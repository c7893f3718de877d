"""Limits on a connection, before the app sees a request.

Uvicorn's parser buffers a URL, headers and trailers of any size, waits for ever for an unfinished request and
for a client that reads nothing, and answers non-HTTP in plain text. Here each of these has a limit, and the
client gets a problem.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import functools
import http
import socket
import sys
import termios
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dispatcher.admissions import Admissions
from dispatcher.api.auth import ADMIT
from dispatcher.api.problems import problem

MAX_URL_BYTES = 8192
MAX_HEAD_BYTES = 32768
"""Limit on URL and headers, each nginx's default (large_client_header_buffers, 4 of 8k)."""

HEAD_SECONDS = 30.0
"""Limit from the connection, or from the first byte of a further request, to the end of its headers."""

BODY_SECONDS = 20.0
BODY_BYTES_PER_SECOND = 500
"""Least rate of a body: 20 s, and one more for every 500 bytes that arrived.

The defaults of Apache's mod_reqtimeout (`body=20,MinRate=500`). The slowest mobile link, GPRS, is several
times as fast.
"""

WRITE_SECONDS = 30.0
WRITE_BYTES_PER_SECOND = 500
"""Least rate at which a client must take an answer, checked every 30 s; the same as for bodies.

A client that takes nothing at all is cut off after 30 s to 60 s, depending on when the check comes.
"""

LINGER_SECONDS = 2.0
"""Time that a refused client may go on sending: if it were closed at once, the system would reset the
connection, and the answer could be lost (RFC 9112, 9.6)."""


class _Part(enum.Enum):
    """Part of a request that the next byte belongs to."""

    none = enum.auto()
    head = enum.auto()
    body = enum.auto()


class _Refused(Exception):
    """Raised in a callback of the parser, so that it reads nothing after the refused request."""


class LimitedProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 connection, with limits."""

    admissions: ClassVar[Admissions | None] = None
    """Counts the connections; None where nothing is counted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._part = _Part.none
        self._refused = False
        self._upgraded = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        """Bytes since the last byte of the body: chunk sizes, their extensions, trailers."""
        self._body_began = 0.0
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._untaken_bytes = 0
        """Bytes of the answer that the client had not taken at the last check."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        if self.admissions is not None:
            self.admissions.opened(self, self.client[0] if self.client else "")
        self._read_within(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_timer = _cancelled(self._read_timer)
        self._write_timer = _cancelled(self._write_timer)
        if self.admissions is not None:
            self.admissions.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._part is _Part.body:
            self._framing_bytes += len(data)
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._refused or self._upgraded:
            return
        if self._part is _Part.body:
            self._body_went_on()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._read_timer is None and (self.cycle is None or self.cycle.response_complete):
            # These bytes have ended uvicorn's wait for a further request without beginning one.
            self._read_within(HEAD_SECONDS, self._head_is_late)

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(400, "This is not a valid HTTP/1.1 request.")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        # The rest of the answer is below the high-water mark, but the client has not taken it.
        if not self.transport.is_closing():
            self._write_timer = _cancelled(self._write_timer)
        super().resume_writing()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def abort(self) -> None:
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    # The parser's callbacks.

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = _Part.head
        if self._read_timer is None:
            self._read_within(HEAD_SECONDS, self._head_is_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        # The app has the complete headers already: trailers must not be added to them.
        if self._part is _Part.head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._read_timer = _cancelled(self._read_timer)
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.url) > MAX_URL_BYTES or size > MAX_HEAD_BYTES:
            self._refuse_head()
            raise _Refused
        if b"%00" in self.url:
            # PostgreSQL refuses it in text; its error would look like an outage of the store.
            self._refuse(400, "The URL contains a NUL character (%00).")
            raise _Refused
        super().on_headers_complete()
        if self.admissions is not None:
            self.scope.setdefault("state", {})[ADMIT] = functools.partial(self.admissions.admit, self)
        self._part = _Part.body
        if self.parser is None or not self.parser.should_upgrade():
            return
        if self._should_upgrade():
            self._part = _Part.none
        else:
            # An upgrade to an unsupported protocol (HTTP/2): the parser reads nothing after it as HTTP.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            self._body_bytes += len(body)
            self._framing_bytes = 0
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            self._part = _Part.none
            self._read_timer = _cancelled(self._read_timer)
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._refused:
            self._upgraded = True
            if self.admissions is not None:
                self.admissions.closed(self)
            super().handle_websocket_upgrade()

    # The limits.

    def _read_within(self, seconds: float, too_late: Callable[[], None]) -> None:
        self._read_timer = self.loop.call_later(seconds, too_late)

    def _head_is_late(self) -> None:
        if self.flow.read_paused:
            self._read_within(HEAD_SECONDS, self._head_is_late)
        elif self._part is _Part.head:
            self._refuse(408, f"The request's headers did not arrive within {HEAD_SECONDS:g} s.")
        else:
            self._close()

    def _body_went_on(self) -> None:
        if self._framing_bytes > MAX_HEAD_BYTES:
            self._refuse(
                431, f"The body's chunk extensions or trailers are larger than {MAX_HEAD_BYTES} bytes."
            )
        elif self._read_timer is None:
            self._body_began = self.loop.time()
            self._read_within(BODY_SECONDS, self._body_is_late)

    def _body_is_late(self) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            # The app has not read the body yet; the client is not at fault.
            self._body_began = self.loop.time()
        # A body that the app no longer reads earns no more time.
        earned = 0 if self.cycle.response_complete else self._body_bytes / BODY_BYTES_PER_SECOND
        left = self._body_began + BODY_SECONDS + earned - self.loop.time()
        if left > 0:
            self._read_within(left, self._body_is_late)
        else:
            self._refuse(
                408,
                f"The request's body did not arrive within {BODY_SECONDS:g} s, "
                f"and one more for every {BODY_BYTES_PER_SECOND} bytes.",
            )

    def _close(self) -> None:
        """Close the connection once all answers are taken, under the same limit as other answers."""
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        if self._write_timer is None:
            self._look_at_reader_later()

    def _look_at_reader_later(self) -> None:
        self._untaken_bytes = self._count_untaken()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._look_at_reader)

    def _look_at_reader(self) -> None:
        if self._untaken_bytes - self._count_untaken() < WRITE_SECONDS * WRITE_BYTES_PER_SECOND:
            self.transport.abort()
        else:
            self._look_at_reader_later()

    def _count_untaken(self) -> int:
        """Return the bytes of answers that the client has not acknowledged.

        Linux buffers up to 4 MB for a connection, and asks for more when a third of that is gone: judged by
        the transport's buffer alone, a client that reads 500 bytes a second would seem to read nothing for
        half an hour. Other systems buffer a few hundred kB, and do not report it.
        """
        untaken = self.transport.get_write_buffer_size()
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or connection is None or connection.fileno() < 0:
            return untaken
        # SIOCOUTQ, which has the same number as TIOCOUTQ (tcp(7)).
        unacknowledged = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        return untaken + int.from_bytes(unacknowledged, sys.byteorder)

    def _refuse_head(self) -> None:
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, f"The URL is longer than {MAX_URL_BYTES} bytes.")
        else:
            self._refuse(431, f"The request's line and headers are larger than {MAX_HEAD_BYTES} bytes.")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer instead of the app, and read no more."""
        self._refused = True
        self._read_timer = _cancelled(self._read_timer)
        if not self._may_answer():
            # An answer is being sent; a second one in the middle would be read as part of it.
            self._close()
            return
        if self._part is _Part.body:
            # The app is handling this request; its answer must no longer be sent.
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False
            self.cycle.message_event.set()
        answer = problem(status, detail, headers={"Connection": "close"})
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        line = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode()
        self.transport.write(line + headers + b"\r\n" + bytes(answer.body))
        self.transport.write_eof()
        self._read_within(LINGER_SECONDS, self._close)

    def _may_answer(self) -> bool:
        """Return True if the next answer on this connection belongs to the request that is being read."""
        if self._part is _Part.body:
            return not self.cycle.response_started and not self.pipeline
        return self.cycle is None or self.cycle.response_complete


def limited(admissions: Admissions) -> type[LimitedProtocol]:
    """Return an HTTP protocol whose connections are counted by `admissions`."""
    return type("CountedProtocol", (LimitedProtocol,), {"admissions": admissions})


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
