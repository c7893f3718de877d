"""The dispatcher's end of the channel: one WebSocket per machine, opened by the machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from bot.protocol import (
    CHANNEL_PATH,
    PROTOCOL_VERSION,
    FromDispatcher,
    FromMachine,
    Hello,
    parse_from_machine,
)
from dispatcher.api.auth import ADMIT, bearer_of
from dispatcher.log_context import about
from dispatcher.machines.channels import ChannelLost
from dispatcher.repeated_warning import RepeatedWarning
from dispatcher.sessions.machine_reports import MachineReports
from dispatcher.tokens import InvalidToken, MachineTokens

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
"""Limit on the wait for a machine's `hello`."""

MOST_FAULTS = 100
"""Limit on a message's faults that are checked one by one: pydantic renders all or none, and a million take 4
s."""

UNAUTHORIZED = 4401
UNSUPPORTED = 4426
MALFORMED = 4400
REPLACED = 4409
TRY_AGAIN_LATER = 1013
"""Close code 1013, "Try Again Later" (IANA's registry of WebSocket close codes)."""


class _Connection:
    """One machine's connection. Sending and receiving raise `ChannelLost` once it is broken."""

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

    async def close(self, reason: str) -> None:
        await _close(self._websocket, REPLACED, reason)

    async def receive(self) -> FromMachine:
        """Return the next message.

        Raises:
            pydantic.ValidationError: the frame is not a message.
        """
        try:
            frame = await self._websocket.receive()
        except RuntimeError as error:
            raise ChannelLost(str(error)) from error
        if frame["type"] == "websocket.disconnect":
            raise ChannelLost(f"closed with code {frame['code']}")
        return parse_from_machine(frame.get("text") or frame.get("bytes") or b"")


def add_routes(routes: APIRouter, machine_reports: MachineReports, tokens: MachineTokens) -> None:
    """Add the channel's route. Only the token identifies a machine; its `hello` must agree with
    the token."""
    greeting: dict[str, asyncio.Timeout] = {}
    refusals = RepeatedWarning(log, "channels were refused: %d since the last line like this: %s")

    async def refuse(websocket: WebSocket, code: int, reason: str) -> None:
        refusals.warn(time.monotonic(), reason)
        await websocket.accept()
        await _close(websocket, code, reason)

    @routes.websocket(CHANNEL_PATH)
    async def channel(websocket: WebSocket) -> None:
        try:
            bearer = bearer_of(websocket.headers)
        except ValueError as error:
            await refuse(websocket, MALFORMED, str(error))
            return
        try:
            machine_id = tokens.machine_id(bearer or "")
        except InvalidToken as error:
            await refuse(websocket, UNAUTHORIZED, str(error))
            return
        if (admit := websocket.scope.get("state", {}).get(ADMIT)) is not None:
            admit()
        await websocket.accept()
        with about(machine_id=machine_id):
            try:
                await _serve(websocket, machine_id, machine_reports, greeting)
            except ChannelLost as lost:
                log.debug("machine %s: channel lost: %s", machine_id, lost)
            except (ValidationError, TimeoutError) as error:
                words = f"machine {machine_id}: not a message of the channel: {_in_words(error)}"
                refusals.warn(time.monotonic(), words)
                await _close(websocket, MALFORMED, "not a message of the channel")
            except SQLAlchemyError as error:
                # Its messages are not on record. It reconnects, and its `hello` repeats what matters.
                log.warning("machine %s: the store does not answer: %s", machine_id, type(error).__name__)
                await _close(websocket, TRY_AGAIN_LATER, "the store does not answer")


async def _serve(
    websocket: WebSocket,
    machine_id: str,
    machine_reports: MachineReports,
    greeting: dict[str, asyncio.Timeout],
) -> None:
    connection = _Connection(websocket)
    async with asyncio.timeout(HELLO_SECONDS) as limit:
        # At most one connection of a machine may be without a `hello`: the latest.
        earlier = greeting.get(machine_id)
        if earlier is not None and not earlier.expired():
            earlier.reschedule(float("-inf"))
        greeting[machine_id] = limit
        try:
            hello = await connection.receive()
        finally:
            if greeting.get(machine_id) is limit:
                del greeting[machine_id]
    if not isinstance(hello, Hello) or hello.machine_id != machine_id:
        log.warning("machine %s: its first message is not its own hello", machine_id)
        await _close(websocket, MALFORMED, "the first message must be this machine's hello")
        return
    if abs(hello.protocol - PROTOCOL_VERSION) > 1:
        reason = f"protocol {hello.protocol} is not spoken here; allowed: {PROTOCOL_VERSION} ± 1"
        await _close(websocket, UNSUPPORTED, reason)
        return
    try:
        await machine_reports.connected(machine_id, hello, connection)
        while True:
            try:
                message = await connection.receive()
            except ValidationError:
                if hello.protocol <= PROTOCOL_VERSION:
                    raise
                log.info("machine %s: passed over what only protocol %d knows", machine_id, hello.protocol)
                continue
            await machine_reports.heard(machine_id, message)
    finally:
        machine_reports.disconnected(machine_id, connection)


async def _close(websocket: WebSocket, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is closed already
        await websocket.close(code, reason)


def _in_words(error: ValidationError | TimeoutError) -> str:
    """Return the fault in one line, without the input, which may be secret or long."""
    if isinstance(error, TimeoutError):
        return f"no hello within {HELLO_SECONDS:g} s"
    if (faults := error.error_count()) > MOST_FAULTS:
        return f"{faults} values are wrong"
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the message'}: {first['msg']}"
