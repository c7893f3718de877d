"""Starting a session: the request and the answer of Pipecat Cloud's API and of the development runner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.api.access import Caller
from dispatcher.api.bodies import read_body
from dispatcher.api.files import FILES_PATH
from dispatcher.api.leaving import HUNG_UP, unless_gone
from dispatcher.api.models import QueuePlace, StartAnswer
from dispatcher.api.openapi import problems
from dispatcher.domain.errors import InvalidRequest, SessionError
from dispatcher.domain.idempotency import MAX_KEY_LENGTH, is_key, is_random
from dispatcher.sessions.service import SessionService, Wait
from dispatcher.sessions.starts import Start, Started, Starts
from dispatcher.telemetry import refusals
from dispatcher.telemetry.traces import Served, Traces
from dispatcher.tokens import SessionTokens
from dispatcher.transports.transport import Wanted

Hold = Annotated[
    Wait,
    Query(description="Answer at once, when the machine has started, or when the bot is ready."),
]
QueueSeconds = Annotated[
    float,
    Query(
        ge=0,
        le=3600,
        description="At capacity: how long to wait for a slot, in seconds, before the start fails with 429."
        " The session waits in the state `queued`; 0 answers 429 at once.",
    ),
]


class StartRequest(BaseModel):
    """Pipecat Cloud's start request. Unknown members are ignored, as there."""

    model_config = ConfigDict(extra="ignore", strict=True)

    transport: str | None = None
    createDailyRoom: bool = False
    dailyRoomProperties: dict[str, Any] | None = None
    """Properties of the room, over `daily`; one that the deployment does not allow is refused by name."""
    dailyMeetingTokenProperties: dict[str, Any] | None = None
    """Properties of the client's token, over `daily`."""
    enableDefaultIceServers: bool = False
    body: Any = None


# The body and the key are read by hand, for their own limits and messages.
_DESCRIBED: dict[str, Any] = {
    "response_model": StartAnswer,
    "responses": problems(404, 410, 413, 422, 429, 502),
    "openapi_extra": {
        "requestBody": {"content": {"application/json": {"schema": StartRequest.model_json_schema()}}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key with the same request is the same session, for 24 h."
                " With a key that browsers hold it must be a random UUID (version 4 or 7).",
                "schema": {"type": "string", "pattern": f"^[!-~]{{1,{MAX_KEY_LENGTH}}}$"},
            }
        ],
    },
}


OnRefused = Callable[[str, str, str], None]
"""Called for each refused start with agent, transport (empty if unknown) and code."""


class Starter:
    """Starts sessions for callers, and counts every refusal."""

    def __init__(
        self, starts: Starts, service: SessionService, max_body_bytes: int, on_refused: OnRefused
    ) -> None:
        self._starts = starts
        self.max_body_bytes = max_body_bytes
        self._service = service
        self._on_refused = on_refused

    async def start(self, start: Start, served: Served) -> Started:
        """Admit the session; its machine is then requested.

        Raises:
            SessionError: no session was started.
        """
        try:
            started = await self._starts.start(start)
        except SQLAlchemyError:
            served.status = 503
            self._on_refused(*_labels(self._service, start), refusals.STORE_DOWN)
            raise
        except SessionError as error:
            served.status = error.status
            if (outcome := refusals.outcome(error)) is not None:
                self._on_refused(*_labels(self._service, start), outcome)
            raise
        served.attributes["session.id"] = started.session.id
        return started


def add_routes(
    routes: APIRouter, service: SessionService, starter: Starter, tokens: SessionTokens, traces: Traces
) -> None:
    """Add the routes: `POST /start` for the default agent, `POST /v1/public/{agent}/start` for any."""

    async def answer(
        agent: str | None, request: Request, wait: Wait, queue: float, served: Served
    ) -> Response:
        caller: Caller = request.user
        wanted = await _read(request, starter.max_body_bytes)
        start = Start(
            agent=agent,
            # The older way to ask for Daily, which clients still use.
            transport=wanted.transport or ("daily" if wanted.createDailyRoom else None),
            body=wanted.body,
            wanted=Wanted(
                enable_default_ice_servers=wanted.enableDefaultIceServers,
                room=wanted.dailyRoomProperties or {},
                token=wanted.dailyMeetingTokenProperties or {},
            ),
            queue_seconds=queue,
            by=caller.by,
            owner=caller.owner,
            key=_idempotency_key(request, caller),
            traceparent=served.traceparent,
        )
        started = await starter.start(start, served)
        try:
            joined = await unless_gone(request, service.joined(started, wait))
            if joined is None:
                await service.hang_up(started)
                return Response(status_code=HUNG_UP)
            response = described(joined, request)
        except SessionError:
            # The session is over.
            raise
        except BaseException:
            await service.close_unanswered(started, caller.by)
            raise
        served.status = 200
        return response

    def described(joined: Started, request: Request) -> Response:
        place = QueuePlace.of(joined.place)
        waiting = {"queue": place.model_dump()} if place is not None else {}
        session = joined.session
        known = {
            "sessionId": session.id,
            "sessionToken": tokens.issue(session),
            "fileUploadUrl": f"/sessions/{session.id}/{FILES_PATH}",
        }
        client = joined.client
        if (path := client.get("wsUrl")) is not None:
            # The client's own way to here: its scheme, as a proxy says it, and the host that it called.
            scheme = "wss" if request.url.scheme == "https" else "ws"
            token = tokens.issue_for_socket(session)
            client = {**client, "wsUrl": f"{scheme}://{request.url.netloc}{path}", "token": token}
        return JSONResponse({**known, **client, **waiting})

    @routes.post("/start", **_DESCRIBED)
    async def start(request: Request, wait: Hold = "ready", queue: QueueSeconds = 0) -> Response:
        with traces.serve("POST", "/start", request.headers.get("traceparent")) as served:
            return await answer(None, request, wait, queue, served)

    @routes.post("/v1/public/{agent}/start", **_DESCRIBED)
    async def start_agent(
        agent: str, request: Request, wait: Hold = "ready", queue: QueueSeconds = 0
    ) -> Response:
        route = "/v1/public/{agent}/start"
        with traces.serve("POST", route, request.headers.get("traceparent")) as served:
            return await answer(agent, request, wait, queue, served)


def _labels(service: SessionService, start: Start) -> tuple[str, str]:
    """Return agent and transport, empty if unknown: a client's own words would make metric series without
    bound."""
    name = start.agent or service.default_agent
    if (agent := service.agents.get(name)) is None:
        return "", ""
    transport = start.transport or agent.transports[0]
    return name, transport if transport in agent.transports else ""


TOO_LARGE = "More is allowed by switchboard:maxStartBodyBytes (SWITCHBOARD_MAX_START_BODY_BYTES)."


ON_LOOP_BYTES = 64 * 1024
"""Limit on a request that is parsed on the event loop; a larger one is parsed in a thread: 1 MiB of numbers
takes 0.1 s."""


async def _read(request: Request, limit: int) -> StartRequest:
    raw = await read_body(request, limit, TOO_LARGE)
    return _parsed(raw) if len(raw) <= ON_LOOP_BYTES else await asyncio.to_thread(_parsed, raw)


def _parsed(raw: bytes) -> StartRequest:
    try:
        wanted = StartRequest.model_validate_json(raw) if raw.strip() else StartRequest()
        json.dumps(wanted.body, allow_nan=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    except ValueError as error:
        raise InvalidRequest(f"body: NaN and Infinity are not JSON ({error}).") from error
    return wanted


def _idempotency_key(request: Request, caller: Caller) -> str | None:
    keys = request.headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not is_key(keys[0]):
        given = "more than one" if len(keys) > 1 else f"{len(keys[0])} characters: {keys[0][:40]!r}"
        allowed = f"one of 1 to {MAX_KEY_LENGTH} visible ASCII characters"
        raise InvalidRequest(f"Idempotency-Key: allowed is {allowed}, not {given}.")
    if caller.public and not is_random(keys[0]):
        # Everybody who opens the page is one caller: a guessed key would return another person's session.
        raise InvalidRequest(
            f"Idempotency-Key: allowed with the key '{caller.by}', which browsers hold, is a random UUID "
            f"(crypto.randomUUID()), not {keys[0][:40]!r}."
        )
    return keys[0]
