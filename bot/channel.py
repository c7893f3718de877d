"""The client end of the channel: one WebSocket to the dispatcher, reopened for as long as the machine lives.

A dispatcher may be killed and restarted during a call. The machine's messages are queued meanwhile, and sent
in order over the next connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from bot.logs import logger
from bot.protocol import (
    CHANNEL_PATH,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    FromDispatcher,
    FromMachine,
    Heartbeat,
    Hello,
    Welcome,
    parse_from_dispatcher,
)

OPEN_SECONDS = 10.0
"""Limit on the connection with its handshake, and again on the wait for `welcome`."""

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
"""Limit on the backoff: a dispatcher restarts within seconds, and thousands of machines must not reconnect at
once."""

KEPT_MESSAGES = 1000
"""Limit on the messages queued without a connection; one turn's latency a second fills it in a quarter of an
hour."""

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_REFUSED_STATUSES = (401, 403)
_REFUSED_CLOSE_CODES = (1008, 4401, 4403, 4426)


class Refused(Exception):
    """The dispatcher refuses this machine; the text says why."""


class Owner(Protocol):
    """The channel's owner. Its methods are called on the channel's event loop."""

    def hello(self) -> Hello: ...

    def heartbeat(self) -> Heartbeat: ...

    def is_alive(self) -> bool:
        """Return False if a heartbeat that is due now would be a lie."""
        ...

    def received(self, message: FromDispatcher) -> None: ...

    def unconnected(self, seconds: float) -> None:
        """Take note that there has been no connection for this long."""
        ...


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait before the next attempt, when `attempt` have failed in a row (0, 1, …).

    Args:
        chance: From 0 to 1; spreads machines over the upper half of the interval.
    """
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(attempt, 16))
    return longest * (0.5 + chance / 2)


def is_local(url: str) -> bool:
    """Return True if the URL is of this host: a proxy of the environment (HTTP_PROXY) is not used for it."""
    return urllib.parse.urlsplit(url).hostname in _LOCAL_HOSTS


class Channel:
    """Keeps the connection, and keeps what is not sent yet.

    Args:
        dispatcher: The dispatcher's URL.
        token: The machine's token.
        sleep: Waits; tests inject a clock of their own, and so with `now` and `chance`.
    """

    def __init__(
        self,
        dispatcher: str,
        token: str,
        owner: Owner,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        scheme, _, rest = dispatcher.partition("://")
        self._url = f"{'wss' if scheme == 'https' else 'ws'}://{rest}{CHANNEL_PATH}"
        self._local = is_local(dispatcher)
        self._token = token
        self._owner = owner
        self._sleep = sleep
        self._now = now
        self._chance = chance
        self._waiting: deque[FromMachine] = deque()
        self._more = asyncio.Event()
        self._stood = False
        self.connected = False

    def send(self, message: FromMachine) -> None:
        """Queue a message; it is sent in order once a connection stands."""
        if len(self._waiting) >= KEPT_MESSAGES:
            logger.warning(f"{KEPT_MESSAGES} messages wait for the dispatcher; a '{message.type}' is dropped")
            return
        self._waiting.append(message)
        self._more.set()

    async def run(self) -> None:
        """Connect and reconnect until cancelled.

        Raises:
            Refused: the dispatcher refused the very first connection. A later refusal is retried: a call
                under way is worth more than its channel.
        """
        failures = 0
        down_since = self._now()
        while True:
            stood = False
            try:
                stood = await self._connect_once()
            except Refused as refusal:
                if not self._stood:
                    raise
                logger.error(f"{refusal}; trying again")
            except (OSError, TimeoutError, WebSocketException) as error:
                logger.warning(f"no connection to {self._url}: {type(error).__name__}: {error}")
            except Exception:  # noqa: BLE001 - whatever goes wrong here must not end a call
                logger.exception("the channel failed; it is opened again")
            if stood:
                failures, down_since = 0, self._now()
            self._owner.unconnected(self._now() - down_since)
            await self._sleep(backoff(failures, self._chance()))
            failures += 1

    async def _connect_once(self) -> bool:
        """Run one connection from its handshake to its end. Return False if no `welcome` came."""
        opening = connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {self._token}"},
            open_timeout=OPEN_SECONDS,
            close_timeout=1,
            max_size=MAX_MESSAGE_BYTES,
            # Frames are small and links are fast; zlib would cost memory and a moment per message.
            compression=None,
            proxy=None if self._local else True,
        )
        try:
            connection = await opening
        except InvalidStatus as error:
            if error.response.status_code in _REFUSED_STATUSES:
                raise Refused(_refusal(self._url, f"HTTP {error.response.status_code}")) from error
            raise
        async with connection:
            try:
                heartbeat_seconds = await self._greet(connection)
                await self._converse(connection, heartbeat_seconds)
            except ConnectionClosed as closed:
                close = closed.rcvd
                if close is not None and close.code in _REFUSED_CLOSE_CODES:
                    raise Refused(_refusal(self._url, f"{close.code}: {close.reason}")) from closed
                if not self.connected:
                    raise
                logger.warning(f"the connection to the dispatcher is lost: {closed}")
            finally:
                was_connected, self.connected = self.connected, False
        return was_connected

    async def _greet(self, connection: ClientConnection) -> float:
        """Say hello, wait for the welcome, and return its heartbeat interval in seconds."""
        await connection.send(self._owner.hello().model_dump_json())
        async with asyncio.timeout(OPEN_SECONDS):
            welcome = parse_from_dispatcher(await connection.recv())
        if not isinstance(welcome, Welcome):
            raise Refused(f"{self._url} answered hello with '{welcome.type}', not with 'welcome'")
        if welcome.protocol < PROTOCOL_VERSION - 1:
            raise Refused(
                f"{self._url} speaks protocol {welcome.protocol}; this machine speaks {PROTOCOL_VERSION} "
                f"and accepts {PROTOCOL_VERSION - 1} or later"
            )
        self._stood = self.connected = True
        self._owner.received(welcome)
        return welcome.heartbeat_seconds

    async def _converse(self, connection: ClientConnection, heartbeat_seconds: float) -> None:
        # A phase from before the break would contradict the hello.
        self._waiting = deque(message for message in self._waiting if not isinstance(message, Heartbeat))
        speaking = [
            asyncio.create_task(self._write(connection)),
            asyncio.create_task(self._beat(heartbeat_seconds)),
        ]
        try:
            async for frame in connection:
                self._read(frame)
        finally:
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)
        # The iteration ends without an exception on close codes 1000 and 1001; a restart is one of them.
        logger.warning("the dispatcher closed the connection")

    def _read(self, frame: str | bytes) -> None:
        try:
            message = parse_from_dispatcher(frame)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            logger.error(f"a message from the dispatcher cannot be read: {first['loc']}: {first['msg']}")
            return
        self._owner.received(message)

    async def _write(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                # Removed only once it is sent, so that a break loses as little as possible.
                await connection.send(self._waiting[0].model_dump_json())
                self._waiting.popleft()

    async def _beat(self, seconds: float) -> None:
        self.send(self._owner.heartbeat())
        while True:
            await self._sleep(seconds)
            # While the network takes no messages, heartbeats would only pile up.
            if not self._waiting and self._owner.is_alive():
                self.send(self._owner.heartbeat())


def _refusal(url: str, answer: str) -> str:
    return f"the dispatcher at {url} refused this machine ({answer})"
