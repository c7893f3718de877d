"""The development runner's own routes: offers without a start before them, and the list of transports.

A `pc_id` that a client gets here begins with its session's id. So later offers of the connection and its ICE
candidates find their session at any dispatcher, after a restart too, and nothing has to be kept.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from bot import protocol
from dispatcher.api import access
from dispatcher.api.access import Caller
from dispatcher.api.bodies import read_body
from dispatcher.api.leaving import HUNG_UP, unless_gone
from dispatcher.api.models import OfferAnswer, RunnerStatus, Status
from dispatcher.api.openapi import problems
from dispatcher.api.sessions import response_of
from dispatcher.api.start import Starter
from dispatcher.domain.errors import InvalidRequest, SessionError, StartFailed, UnknownSession
from dispatcher.domain.model import Session
from dispatcher.machines.channels import new_request_id
from dispatcher.sessions.service import SessionService
from dispatcher.sessions.starts import Start
from dispatcher.telemetry.traces import Served, Traces

OFFER_PATH = "api/offer"

PC_ID = re.compile(r"(?P<session>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})/(?P<pc_id>.+)", re.DOTALL)

M = TypeVar("M", bound=BaseModel)


class Offer(BaseModel):
    """An offer as Pipecat's clients send it. Unknown members are passed on to the bot."""

    model_config = ConfigDict(extra="allow")

    sdp: Annotated[str, Field(pattern=r"^v=0\r?\n")]
    type: Literal["offer"]
    pc_id: str | None = None
    """Id of an earlier answer, to renegotiate its connection. If that session is over, a new one starts."""
    request_data: Any = Field(default=None, validation_alias=AliasChoices("request_data", "requestData"))
    """The bot's `body`."""


class Candidates(BaseModel):
    """ICE candidates of the connection of an earlier answer."""

    model_config = ConfigDict(extra="allow")

    pc_id: str
    candidates: list[dict[str, Any]] = []


def _described(model: type[BaseModel], *statuses: int, answer: type[BaseModel]) -> dict[str, Any]:
    # The bodies are read by hand, for their own limits and messages.
    body = {"content": {"application/json": {"schema": model.model_json_schema()}}, "required": True}
    return {
        "response_model": answer,
        "responses": problems(*statuses),
        "openapi_extra": {"requestBody": body},
    }


def add_routes(routes: APIRouter, service: SessionService, starter: Starter, traces: Traces) -> None:
    """Add the routes: `POST` and `PATCH /api/offer` for the default agent, and `GET /status`."""

    @routes.get("/status", response_model=RunnerStatus)
    async def status(request: Request) -> JSONResponse:
        """List the transports of the default agent."""
        caller: Caller = request.user
        seen = caller.agents
        is_seen = not seen or service.default_agent in seen
        transports = list(service.agents[service.default_agent].transports) if is_seen else []
        return JSONResponse({"status": "ready", "transports": transports})

    @routes.post(
        "/api/offer",
        summary="Start a session of the default agent with an offer",
        **_described(Offer, 404, 410, 413, 429, 502, 504, answer=OfferAnswer),
    )
    async def offer(request: Request) -> Response:
        offered = await _read(Offer, request)
        caller: Caller = request.user
        known = await _session_of(service, caller, offered.pc_id)
        if known is not None and not known[0].over:
            session, pc_id = known
            calling = service.call(session.id, _message("POST", offered, pc_id))
            answer = await unless_gone(request, calling)
            return Response(status_code=HUNG_UP) if answer is None else _answer(session, answer)
        with traces.serve("POST", "/api/offer", request.headers.get("traceparent")) as served:
            return await begin(request, caller, offered, served)

    async def begin(request: Request, caller: Caller, offered: Offer, served: Served) -> Response:
        start = Start(
            transport="webrtc",
            by=caller.by,
            owner=caller.owner,
            traceparent=served.traceparent,
        )
        started = await starter.start(start, served)
        session, status = started.session, 500
        try:
            calling = service.call(session.id, _message("POST", offered, None))
            answer = await unless_gone(request, calling)
            response = Response(status_code=HUNG_UP) if answer is None else _answer(session, answer)
            status = response.status_code
        except SessionError as error:
            status = error.status
            raise
        finally:
            served.status = status
            # Before the answer the caller does not know the session, so any failure to answer ends it.
            if status != 200:
                await service.close_unanswered(started, caller.by)
        return response

    @routes.patch(
        "/api/offer",
        summary="Add ICE candidates",
        **_described(Candidates, 404, 410, 413, 429, 502, 504, answer=Status),
    )
    async def candidates(request: Request) -> Response:
        given = await _read(Candidates, request)
        known = await _session_of(service, request.user, given.pc_id)
        if known is None:
            raise UnknownSession(f"pc_id: there is no session with the connection '{given.pc_id[:80]}'.")
        session, pc_id = known
        answer = await unless_gone(request, service.call(session.id, _message("PATCH", given, pc_id)))
        return Response(status_code=HUNG_UP) if answer is None else response_of(answer)


async def _session_of(
    service: SessionService, caller: Caller, given: str | None
) -> tuple[Session, str] | None:
    """Return the session of an earlier answer's `pc_id`, and the bot's own id of the connection.

    None if the id was not issued here, or its session is not the caller's.
    """
    found = PC_ID.fullmatch(given or "")
    if found is None:
        return None
    try:
        session = await service.get(found["session"])
    except UnknownSession:
        return None
    return (session, found["pc_id"]) if access.sees(caller, session) else None


def _message(method: str, body: Offer | Candidates, pc_id: str | None) -> protocol.Request:
    text = json.dumps(body.model_dump() | {"pc_id": pc_id})
    return protocol.Request(
        id=new_request_id(),
        method=method,
        path=OFFER_PATH,
        headers=(("content-type", "application/json"),),
        body=base64.b64encode(text.encode()).decode(),
    )


def _answer(session: Session, answer: protocol.Response) -> Response:
    """Return the bot's answer to an offer with the session in its `pc_id`; any other answer unchanged."""
    response = response_of(answer)
    if response.status_code != 200:
        return response
    try:
        described = json.loads(bytes(response.body))
        known = {name: described[name] for name in ("sdp", "type", "pc_id")}
        if not all(isinstance(value, str) for value in known.values()):
            raise ValueError("not text")
    except (ValueError, TypeError, KeyError) as error:
        raise StartFailed("The bot's answer is not a session description.", code="bad_answer") from error
    return JSONResponse(known | {"pc_id": f"{session.id}/{known['pc_id']}", "sessionId": session.id})


async def _read(model: type[M], request: Request) -> M:
    raw = await read_body(request)
    try:
        read = model.model_validate_json(raw)
        # Bodies reach the bot as JSON, which has no NaN.
        json.dumps(read.model_dump(), allow_nan=False).encode()
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    except ValueError as error:
        raise InvalidRequest(f"body: it cannot be passed on as JSON ({error}).") from error
    return read
