"""The routes of Pipecat Cloud's base image, beside those that a bot has added to the same application.

POST        /bot         start the session; answered when it is over. The JSON body is the bot's; the headers
                         x-daily-room-url and x-daily-room-token name its room, x-daily-transport-type
                         says `webrtc` if an offer will come, and x-daily-session-id is the session's id
WebSocket   /ws          a session over this connection; `?body=` is JSON in base64
POST, PATCH /api/offer   SmallWebRTC: an offer (which also starts a session), and ICE candidates
GET         /readyz      whether a session would be taken: not once there is one; else what the bot file's
                         `readyz()` says, or ready
GET         /livez       the process answers
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from fastapi.websockets import WebSocketState

from bot.calls import OFFER_PATH
from bot.logs import logger
from bot.outcome import Outcome, describe
from bot.problems import Problem
from bot.protocol import Assignment, IceServer
from bot.protocol import Response as SessionResponse
from bot.session import WEBRTC, Session

LONGEST_SECONDS = 14400.0
"""Limit on a session: the longest that Pipecat Cloud allows an agent. It enforces it itself; other hosts may
not."""

_TRY_AGAIN_LATER = 1013
"""Close code of a WebSocket that is refused; before it is accepted, this becomes HTTP's 403."""


class Host(Protocol):
    """The process of one session, as the routes use it."""

    @property
    def session(self) -> Session: ...
    @property
    def over(self) -> asyncio.Future[Outcome]:
        """The session's outcome; it is never cancelled, so await it shielded."""
        ...

    @property
    def answered(self) -> asyncio.Event:
        """Set when a client's offer was answered."""
        ...

    @property
    def claimed(self) -> bool: ...
    def claim(self) -> None: ...
    def expect_offer(self) -> None: ...
    async def ice_servers(self) -> tuple[IceServer, ...]: ...
    async def call(self, method: str, path: str, body: bytes) -> SessionResponse: ...
    async def readiness(self) -> Any: ...


def add_routes(app: FastAPI, host: Host) -> None:
    """Add the routes. A bot's own routes come first, as it was imported before."""

    @app.post("/bot")
    async def start(request: Request) -> Response:
        try:
            body = _json_object(await request.body())
            with _claimed(host):
                assignment = await _assignment(host, request.headers, body)
                host.session.assign(assignment)
        except Problem as problem:
            return _http(problem.to_response(""))
        if assignment.transport == WEBRTC:
            host.expect_offer()
        await asyncio.shield(host.over)
        if assignment.transport == WEBRTC and not host.answered.is_set():
            problem = Problem(504, "no-offer", "The session ended before a client's offer was answered.")
            return _http(problem.to_response(""))
        # As in the base image, even if the bot failed: the process's exit status and its log say so.
        return JSONResponse({})

    @app.websocket("/ws")
    async def converse(websocket: WebSocket) -> None:
        try:
            with _claimed(host):
                await websocket.accept()
                body = _encoded_body(websocket.query_params.get("body"))
                assignment = _assigned("websocket", websocket.headers, body)
                host.session.assign(assignment, websocket=websocket)
        except Problem as problem:
            logger.warning(f"a WebSocket is refused: {problem.detail}")
            await websocket.close(_TRY_AGAIN_LATER)
            return
        await asyncio.shield(host.over)
        if WebSocketState.DISCONNECTED not in (websocket.client_state, websocket.application_state):
            await websocket.close()

    @app.api_route(f"/{OFFER_PATH}", methods=["POST", "PATCH"])
    async def offer(request: Request) -> Response:
        body = await request.body()
        if not host.claimed:
            try:
                if request.method != "POST":
                    raise Problem(404, "unknown-connection", "There is no session with this connection.")
                with _claimed(host):
                    headers = {**request.headers, "x-daily-transport-type": WEBRTC}
                    host.session.assign(await _assignment(host, headers, {}))
            except Problem as problem:
                return _http(problem.to_response(""))
            host.expect_offer()
        return _http(await host.call(request.method, OFFER_PATH, body))

    @app.get("/readyz")
    async def readyz() -> Response:
        try:
            said = await host.readiness()
        except Exception as error:  # noqa: BLE001 - a bot that raises is not ready
            logger.opt(exception=error).warning("the bot file's readyz() raised")
            said = {"ready": False, "error": describe(error)}
        if isinstance(said, dict):
            return JSONResponse(said, 200 if said.get("ready") else 503)
        return JSONResponse({"status": "ok" if said is True else "not ready"}, 200 if said is True else 503)

    @app.get("/livez")
    async def livez() -> Response:
        return JSONResponse({"status": "ok"})


@contextlib.contextmanager
def _claimed(host: Host) -> Iterator[None]:
    """Reserve the process for the session that is starting; end that session if the block does not assign it.

    Raises:
        Problem: there is or was a session, or the process is about to exit.
    """
    host.claim()
    try:
        yield
    except BaseException:
        # Nobody else can assign the session now, and the process would wait for one.
        host.session.stop()
        raise


async def _assignment(host: Host, headers: Mapping[str, str], body: dict[str, Any]) -> Assignment:
    room_url, token = headers.get("x-daily-room-url"), headers.get("x-daily-room-token")
    if room_url and token:
        return _assigned("daily", headers, body, room_url=room_url, token=token)
    if headers.get("x-daily-transport-type") == WEBRTC:
        return _assigned(WEBRTC, headers, body, ice_servers=await host.ice_servers())
    return _assigned("none", headers, body)


def _assigned(transport: str, headers: Mapping[str, str], body: dict[str, Any], **fields: Any) -> Assignment:
    return Assignment(
        session_id=headers.get("x-daily-session-id") or str(uuid.uuid4()),
        agent="",
        transport=transport,
        body=body,
        max_duration_seconds=LONGEST_SECONDS,
        **fields,
    )


def _json_object(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise Problem(422, "bad-request", f"body: not JSON ({error})") from None
    if not isinstance(body, dict):
        raise Problem(422, "bad-request", f"body: a {type(body).__name__}; allowed: a JSON object")
    return body


def _encoded_body(encoded: str | None) -> Any:
    """Return the body in a WebSocket's address; a broken one is logged, as the connection stands already."""
    if not encoded:
        return {}
    try:
        return json.loads(base64.b64decode(encoded, validate=True))
    except (ValueError, RecursionError) as error:
        logger.error(f"the parameter `body` of /ws is not JSON in base64: {error}")
        return {}


def _http(response: SessionResponse) -> Response:
    return Response(base64.b64decode(response.body), response.status, dict(response.headers))
