"""The WebSockets of the transport `websocket`: the client's, and the machine's that it is joined to.

The client's handshake is held until the machine is here, so that no frame has to be queued for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from bot.protocol import JOINED_HEADERS, SOCKET_PATH, Joined
from dispatcher.api.auth import ADMIT, SOCKET_TOKEN, bearer_of
from dispatcher.domain.errors import SessionError
from dispatcher.log_context import about
from dispatcher.machines.sockets import FAILED, NORMAL, Socket, SocketClosed, Sockets, Taken
from dispatcher.repeated_warning import RepeatedWarning
from dispatcher.sessions.service import SessionService
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks
from dispatcher.tokens import InvalidToken, MachineTokens, SessionTokens

log = logging.getLogger(__name__)

REFUSED = 4403
CLIENT_PATH = "/sessions/{session_id}/ws"

_MAY_BE_SENT = (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))
"""Close codes that an endpoint may send (RFC 6455, 7.4; IANA's registry)."""


class AcceptedSocket:
    """A WebSocket, as `Sockets` uses it. Starlette raises RuntimeError once it is closed.

    Args:
        without_code: Close code to pass on if the other end gave none, or broke: uvicorn says 1005 for both.
    """

    def __init__(self, websocket: WebSocket, without_code: int) -> None:
        self._websocket = websocket
        self._without_code = without_code
        self._next: asyncio.Task[str | bytes] | None = None

    async def receive(self) -> str | bytes:
        coming = self.coming()
        # A caller that is cancelled leaves the frame to the next one.
        frame = await asyncio.shield(coming)
        self._next = None
        return frame

    def coming(self) -> asyncio.Task[str | bytes]:
        """Return the read of the next frame, which goes on in the background."""
        if self._next is None:
            self._next = asyncio.create_task(self._receive())
        return self._next

    async def send(self, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str):
                await self._websocket.send_text(frame)
            else:
                await self._websocket.send_bytes(frame)
        except (WebSocketDisconnect, RuntimeError) as error:
            raise SocketClosed(FAILED, "the other side is gone") from error

    async def close(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it is closed already
            await self._websocket.close(code, reason)

    async def end(self) -> None:
        """End the read that goes on in the background."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def _receive(self) -> str | bytes:
        try:
            frame = await self._websocket.receive()
        except RuntimeError as error:
            raise SocketClosed(FAILED, "the other side is gone") from error
        if frame["type"] == "websocket.disconnect":
            code = frame.get("code")
            raise SocketClosed(
                code if code in _MAY_BE_SENT else self._without_code, frame.get("reason") or ""
            )
        text = frame.get("text")
        return text if text is not None else frame["bytes"]


def refuser(log: logging.Logger, words: str) -> Callable[[WebSocket, str], Coroutine[Any, Any, None]]:
    """Return a function that closes a WebSocket with a reason; before it is accepted, by HTTP's 403.

    Args:
        words: The warning, as `RepeatedWarning` takes it.
    """
    refusals = RepeatedWarning(log, words)

    async def refuse(websocket: WebSocket, reason: str) -> None:
        refusals.warn(time.monotonic(), reason)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the other side is gone already
            await websocket.close(REFUSED, reason)

    return refuse


def add_routes(
    routes: APIRouter,
    sockets: Sockets,
    service: SessionService,
    store: Store,
    machine_tokens: MachineTokens,
    session_tokens: SessionTokens,
) -> None:
    """Add the two routes. A client has a token of its session; a machine has its own."""
    refuse = refuser(log, "WebSockets were refused: %d since the last line like this: %s")

    @routes.websocket(CLIENT_PATH)
    async def client(websocket: WebSocket, session_id: str) -> None:
        try:
            token = websocket.scope.get("state", {}).get(SOCKET_TOKEN) or bearer_of(websocket.headers)
            if session_tokens.socket_session_id(token or "") != session_id:
                raise InvalidToken("the token is another session's")
            session = await service.get(session_id)
        except (InvalidToken, ValueError, SessionError) as error:
            await refuse(websocket, str(error))
            return
        if session.over or session.transport != "websocket":
            over = "is over" if session.over else f"has the transport {session.transport}"
            await refuse(websocket, f"the session {over}")
            return
        try:
            claim = sockets.claim(session_id)
        except Taken as taken:
            await refuse(websocket, str(taken))
            return
        admit(websocket)
        socket = AcceptedSocket(websocket, NORMAL)
        try:
            with about(session_id=session_id):
                machine = await _machine_for(websocket, claim.machine, lambda: service.until_over(session_id))
                if machine is None:
                    await refuse(websocket, "the session ended before its bot was there")
                    return
                await websocket.accept()
                await machine.send(joined_of(websocket).model_dump_json())
                await claim.talk(socket, machine)
        except SocketClosed as closed:
            await socket.close(closed.code, closed.reason)
        finally:
            claim.release()
            await socket.end()

    @routes.websocket(SOCKET_PATH)
    async def machine(websocket: WebSocket, session_id: str = "") -> None:
        try:
            machine_id = machine_tokens.machine_id(bearer_of(websocket.headers) or "")
        except (InvalidToken, ValueError) as error:
            await refuse(websocket, str(error))
            return
        session = await store.session(session_id)
        if session is None or session.over or session.machine_id != machine_id:
            await refuse(websocket, "it is not the machine of a session that goes on")
            return
        admit(websocket)
        await websocket.accept()
        socket = AcceptedSocket(websocket, FAILED)
        # A machine says nothing before its client is there: what ends this read is its going.
        socket.coming().add_done_callback(lambda _: sockets.gone(session_id, socket))
        try:
            await sockets.wait_for_client(session_id, socket)
        finally:
            await socket.close(NORMAL, "")
            await socket.end()


async def _machine_for(
    websocket: WebSocket,
    machine: Callable[[], Coroutine[Any, Any, Socket]],
    over: Callable[[], Coroutine[Any, Any, object]],
) -> Socket | None:
    """Return the machine's WebSocket; None if the session or the client ends first."""
    await websocket.receive()  # the handshake
    arriving = asyncio.create_task(machine())
    leaving = asyncio.create_task(websocket.receive())
    ending = asyncio.create_task(over())
    try:
        await asyncio.wait({arriving, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
        return arriving.result() if arriving.done() and not leaving.done() else None
    finally:
        await end_tasks(arriving, leaving, ending)


def joined_of(websocket: WebSocket) -> Joined:
    return Joined(
        headers=tuple((name, value) for name, value in websocket.headers.items() if name in JOINED_HEADERS)
    )


def admit(websocket: WebSocket) -> None:
    if (admit := websocket.scope.get("state", {}).get(ADMIT)) is not None:
        admit()
