"""The channel's end: one WebSocket per machine, opened by the machine."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from bot.protocol import CHANNEL_PATH, PROTOCOL_VERSION, FromDispatcher, Hello, parse_from_machine
from dispatcher.machines.channels import ChannelLost
from dispatcher.machines.tokens import InvalidToken, MachineTokens
from dispatcher.sessions.reports import Reports

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
"""How long a machine may take to say who it is."""

UNAUTHORIZED = 4401
UNSUPPORTED = 4426
MALFORMED = 4400


class _Connection:
    """One machine's connection, as the rest of the dispatcher sends to it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._lock = asyncio.Lock()

    async def send(self, message: FromDispatcher) -> None:
        try:
            async with self._lock:
                await self._websocket.send_text(message.model_dump_json())
        except (WebSocketDisconnect, RuntimeError) as error:
            # Starlette raises RuntimeError for a socket that was closed before the send.
            raise ChannelLost(str(error)) from error


def router(reports: Reports, tokens: MachineTokens) -> APIRouter:
    """The channel. A machine is known by its token alone; what it says of itself must agree with it."""
    routes = APIRouter()

    @routes.websocket(CHANNEL_PATH)
    async def channel(websocket: WebSocket) -> None:
        scheme, _, token = websocket.headers.get("authorization", "").partition(" ")
        try:
            machine_id = tokens.machine_id(token.strip() if scheme.lower() == "bearer" else "")
        except InvalidToken as error:
            await _refuse(websocket, UNAUTHORIZED, str(error))
            return
        await websocket.accept()
        try:
            await _serve(websocket, machine_id, reports)
        except WebSocketDisconnect:
            log.debug("machine %s: channel closed", machine_id)
        except (ValidationError, TimeoutError) as error:
            log.warning("machine %s: not a message of the channel: %s", machine_id, error)
            await websocket.close(MALFORMED, "not a message of the channel")

    return routes


async def _serve(websocket: WebSocket, machine_id: str, reports: Reports) -> None:
    async with asyncio.timeout(HELLO_SECONDS):
        hello = parse_from_machine(await websocket.receive_text())
    if not isinstance(hello, Hello) or hello.machine_id != machine_id:
        log.warning("machine %s: its first message is not its own hello", machine_id)
        await websocket.close(MALFORMED, "the first message must be this machine's hello")
        return
    if abs(hello.protocol - PROTOCOL_VERSION) > 1:
        reason = f"protocol {hello.protocol} is not spoken here; allowed: {PROTOCOL_VERSION} ± 1"
        await websocket.close(UNSUPPORTED, reason)
        return
    connection = _Connection(websocket)
    send = connection.send
    try:
        await reports.connected(machine_id, hello, send)
        while True:
            await reports.heard(machine_id, parse_from_machine(await websocket.receive_text()))
    except ChannelLost:
        log.debug("machine %s: channel lost", machine_id)
    finally:
        reports.disconnected(machine_id, send)


async def _refuse(websocket: WebSocket, code: int, reason: str) -> None:
    log.warning("a channel was refused: %s", reason)
    await websocket.accept()
    await websocket.close(code, reason)
