"""The WebSocket of a phone call: the carrier's, which is joined to the machine's once its bot is there.

It is accepted at once, as carriers give up on a handshake soon; the caller hears ringing meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from fastapi import APIRouter, WebSocket

from dispatcher.api.auth import SOCKET_TOKEN
from dispatcher.api.sockets import AcceptedSocket, admit, joined_of, refuser
from dispatcher.clock import Clock
from dispatcher.domain.errors import SessionError
from dispatcher.domain.model import Session
from dispatcher.log_context import about
from dispatcher.machines.sockets import FAILED, NORMAL, Claim, Socket, SocketClosed, Sockets, Taken
from dispatcher.sessions.service import SessionService
from dispatcher.tasks import end_tasks
from dispatcher.telephony.streams import RING_EVERY_SECONDS, HeldStream, Unwelcome
from dispatcher.tokens import InvalidToken, SessionTokens

log = logging.getLogger(__name__)

CALL_PATH = "/sessions/{session_id}/ws/{token}"

GRACE_SECONDS = 0.5
"""Time without ringing: a bot that is there so soon is not preceded by a piece of a tone."""


def add_routes(
    routes: APIRouter, sockets: Sockets, service: SessionService, tokens: SessionTokens, clock: Clock
) -> None:
    """Add the route of carriers' streams. The token in its path is the call's own, and good for one
    connection: a session whose caller has gone is over."""
    refuse = refuser(log, "carriers' WebSockets were refused: %d since the last line: %s")

    @routes.websocket(CALL_PATH)
    async def call(websocket: WebSocket, session_id: str) -> None:
        try:
            carrier, of = tokens.call_of(websocket.scope.get("state", {}).get(SOCKET_TOKEN) or "")
            if of != session_id:
                raise InvalidToken("the token is another session's")
            session = await service.get(session_id)
            if session.over:
                raise InvalidToken("the session is over")
            claim = sockets.claim(session_id)
        except (InvalidToken, SessionError, Taken) as error:
            await refuse(websocket, str(error))
            return
        admit(websocket)
        socket = AcceptedSocket(websocket, NORMAL)
        try:
            with about(session_id=session_id):
                await websocket.receive()  # the handshake
                await websocket.accept()
                await _Call(websocket, socket, claim, service, clock).serve(session, carrier)
        finally:
            claim.release()
            await socket.end()


class _Call:
    """One accepted stream of a carrier."""

    def __init__(
        self, websocket: WebSocket, socket: Socket, claim: Claim, service: SessionService, clock: Clock
    ) -> None:
        self._websocket = websocket
        self._socket = socket
        self._claim = claim
        self._service = service
        self._clock = clock

    async def serve(self, session: Session, carrier: str) -> None:
        """Hold the stream until the machine is there, then pass frames until one side ends."""
        held = HeldStream(carrier, self._clock.monotonic())
        try:
            machine = await self._machine(session.id, held)
            if machine is None:
                # The carrier asks for its next instructions then, and gets those of a call without a bot.
                await self._socket.close(NORMAL, "the session ended before its bot was there")
                return
            for message in held.silence():
                await self._socket.send(message)
            await self._pass_on(machine, held)
            await self._claim.talk(self._socket, machine)
        except Unwelcome as unwelcome:
            await self._socket.close(unwelcome.code, unwelcome.reason)
            await self._hung_up(session.id, f"the dispatcher, as {unwelcome.reason}")
        except SocketClosed as closed:
            await self._socket.close(closed.code, closed.reason)
            await self._hung_up(session.id, "the caller, who hung up before the bot was there")

    async def _machine(self, session_id: str, held: HeldStream) -> Socket | None:
        """Return the machine's WebSocket; None if the session ends first.

        Raises:
            SocketClosed: the caller hung up.
            Unwelcome: the other side is no carrier.
        """
        arriving = asyncio.create_task(self._claim.machine())
        ending = asyncio.create_task(self._service.until_over(session_id))
        reading = asyncio.create_task(self._read(held))
        ringing = asyncio.create_task(self._ring(held))
        try:
            await asyncio.wait({arriving, ending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            return arriving.result() if arriving.done() else None
        finally:
            await end_tasks(arriving, ending, reading, ringing)

    async def _read(self, held: HeldStream) -> None:
        """Take the carrier's frames until it ends the stream."""
        while not held.take(await self._socket.receive(), self._clock.monotonic()):
            pass
        raise SocketClosed(NORMAL, "the carrier stopped the stream")

    async def _ring(self, held: HeldStream) -> None:
        await self._clock.sleep(GRACE_SECONDS)
        with contextlib.suppress(SocketClosed):  # the reader sees it too
            while True:
                for message in held.ring():
                    await self._socket.send(message)
                await self._clock.sleep(RING_EVERY_SECONDS if held.has_rung else GRACE_SECONDS)

    async def _pass_on(self, machine: Socket, held: HeldStream) -> None:
        try:
            await machine.send(joined_of(self._websocket).model_dump_json())
            for frame in held.kept:
                await machine.send(frame)
        except SocketClosed:
            # The machine broke at this moment: its own end is for its channel and the probes to tell.
            await self._socket.close(FAILED, "the bot's machine is gone")
            raise

    async def _hung_up(self, session_id: str, by: str) -> None:
        """End the session of a call that is over. One that is over already stays as it is."""
        with contextlib.suppress(SessionError):  # its row is gone
            await self._service.stop(session_id, by)
