"""The machine's second WebSocket: a session's client over the transport `websocket`, as the bot sees it.

The bot gets a real `fastapi.WebSocket`, as from Pipecat's development runner; this module is the server under
it, and speaks to the dispatcher in place of a client.
"""

from __future__ import annotations

import asyncio
import random
import urllib.parse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from bot.channel import OPEN_SECONDS, backoff, is_local
from bot.logs import logger
from bot.outcome import InvalidBot, describe
from bot.protocol import MAX_SOCKET_FRAME_BYTES, SOCKET_PATH, Joined

QUEUED_FRAMES = 16
"""Frames that wait for a bot that reads slowly: a third of a second of a phone's. Beyond it the network
waits, and with it the client."""


async def open_socket(
    dispatcher: str,
    token: str,
    session_id: str,
    gone: Callable[[], None],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Any:
    """Return the client's WebSocket, accepted, once the client is there.

    A connection that is lost before that is opened again, for as long as the session's other limits let it
    wait. One that is lost later is the client's end.

    Args:
        dispatcher: The dispatcher's URL.
        token: The machine's token.
        gone: Called when the client has gone.

    Raises:
        InvalidBot: FastAPI is not installed.
    """
    try:
        from fastapi import WebSocket
    except ImportError as error:
        raise InvalidBot(f"Transport websocket needs pipecat-ai[websocket]: {describe(error)}") from error
    failures = 0
    while True:
        try:
            connection, joined = await _joined(dispatcher, token, session_id)
            break
        except (OSError, TimeoutError, WebSocketException, ValidationError) as error:
            refused = isinstance(error, InvalidStatus) and error.response.status_code in (401, 403)
            (logger.error if refused else logger.warning)(
                f"the session's WebSocket is not open: {type(error).__name__}: {error}; trying again"
            )
        await sleep(backoff(failures, random.random()))  # noqa: S311 - spreads machines, guards nothing
        failures += 1
    served = _Served(connection, gone)
    websocket = WebSocket(_scope(joined), served.receive, served.send)
    await websocket.accept()
    return websocket


async def _joined(dispatcher: str, token: str, session_id: str) -> tuple[ClientConnection, Joined]:
    scheme, _, rest = dispatcher.partition("://")
    query = urllib.parse.urlencode({"session_id": session_id})
    connection = await connect(
        f"{'wss' if scheme == 'https' else 'ws'}://{rest}{SOCKET_PATH}?{query}",
        additional_headers={"Authorization": f"Bearer {token}"},
        open_timeout=OPEN_SECONDS,
        close_timeout=1,
        max_size=MAX_SOCKET_FRAME_BYTES * 4,  # in UTF-8, a frame's text may have four bytes a character
        max_queue=QUEUED_FRAMES,
        compression=None,
        proxy=None if is_local(dispatcher) else True,
    )
    try:
        return connection, Joined.model_validate_json(await connection.recv())
    except BaseException:
        await connection.close()
        raise


def _scope(joined: Joined) -> dict[str, Any]:
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in joined.headers],
        "client": None,
        "server": None,
        "subprotocols": [],
        "state": {},
        "path_params": {},
    }


class _Served:
    """The server under the bot's WebSocket: ASGI's `receive` and `send` over a connection."""

    def __init__(self, connection: ClientConnection, gone: Callable[[], None]) -> None:
        self._connection = connection
        self._gone = gone
        self._connected = False

    async def receive(self) -> dict[str, Any]:
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        try:
            frame = await self._connection.recv()
        except ConnectionClosed as closed:
            self._gone()
            close = closed.rcvd
            code, reason = (close.code, close.reason) if close is not None else (1006, "")
            return {"type": "websocket.disconnect", "code": code, "reason": reason}
        key = "text" if isinstance(frame, str) else "bytes"
        return {"type": "websocket.receive", key: frame}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        match message["type"]:
            case "websocket.send":
                text = message.get("text")
                try:
                    await self._connection.send(text if text is not None else message["bytes"])
                except ConnectionClosed as closed:
                    # ASGI's own error for a client that has gone; Starlette makes WebSocketDisconnect of it.
                    raise OSError("the client has gone") from closed
            case "websocket.close":
                await self._connection.close(message.get("code", 1000), message.get("reason") or "")
            case _:  # it is accepted already
                pass
