"""One session: its state, its end, and calls to its bot."""

from __future__ import annotations

import base64
import logging
import re
from typing import Any
from urllib.parse import urljoin

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from bot import protocol
from dispatcher.api import files
from dispatcher.api.access import Caller
from dispatcher.api.bodies import read_body
from dispatcher.api.leaving import HUNG_UP, unless_gone
from dispatcher.api.models import QueuePlace, SessionRecord, Stopped
from dispatcher.api.openapi import problems
from dispatcher.api.times import maybe_iso
from dispatcher.domain.errors import StartFailed
from dispatcher.domain.model import Session
from dispatcher.machines.channels import new_request_id
from dispatcher.sessions.service import SessionService

log = logging.getLogger(__name__)

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]

HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\xff]*")
"""A header's name and value (RFC 9110, 5.1 and 5.5)."""

# Hop-by-hop headers belong to one connection (RFC 9110, 7.6.1); credentials are the dispatcher's, not the
# bot's; lengths are counted anew.
NOT_FORWARDED = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "authorization", "cookie", "content-length"),
    }
)

CORS_PREFIX = "access-control-"
"""Prefix of headers that say which sites may read an answer: set by the dispatcher, not by the bot."""

ANSWERED = frozenset(
    {
        *("content-type", "content-encoding", "content-disposition", "content-language", "vary"),
        *("cache-control", "etag", "last-modified", "retry-after"),
    }
)
"""Headers of a bot's answer that reach the client, beside its own (`x-…`) and redirects within its session.

Any other header may concern the whole site or a proxy in front: a bot must not set its cookies, its transport
security or its service workers, nor make a proxy serve another file or another app.
"""

OWN_PREFIX = "x-"
PROXY_PREFIXES = ("x-accel-", "x-sendfile", "x-lighttpd-")
"""Prefixes of headers that command nginx, Apache and lighttpd."""

MAX_HEADERS = 100
"""Limit on the headers of a bot's answer: Apache's default (LimitRequestFields). 330,000 took the event loop
15 s."""

NO_CONTENT = frozenset({204, 205, 304})
"""Statuses whose answers have no body (RFC 9110, 15.3.5, 15.3.6 and 15.4.5)."""


def add_routes(routes: APIRouter, service: SessionService) -> None:
    """Add the routes: `GET` and `DELETE` of a session, and every path below it, which its bot answers."""

    @routes.get("/sessions/{session_id}", response_model=SessionRecord, responses=problems(404))
    async def show(session_id: str) -> JSONResponse:
        session = await service.get(session_id)
        place = QueuePlace.of(await service.place(session))
        return JSONResponse(describe(session) | {"queue": place and place.model_dump()})

    @routes.delete("/sessions/{session_id}", response_model=Stopped, responses=problems(404))
    @routes.delete(
        "/v1/agents/{agent}/sessions/{session_id}", response_model=Stopped, responses=problems(404)
    )
    async def stop(session_id: str, request: Request, agent: str | None = None) -> JSONResponse:
        caller: Caller = request.user
        await service.stop(session_id, caller.by, agent)
        return JSONResponse({"status": "terminated", "session_id": session_id})

    @routes.api_route("/sessions/{session_id}/{path:path}", methods=METHODS, include_in_schema=False)
    @routes.api_route(
        "/v1/public/{agent}/sessions/{session_id}/{path:path}", methods=METHODS, include_in_schema=False
    )
    async def call(session_id: str, path: str, request: Request, agent: str | None = None) -> Response:
        message = protocol.Request(
            id=new_request_id(),
            method=request.method,
            path=path,
            query=request.url.query,
            headers=_forwarded(request.headers),
            base=_base(request, path),
        )
        if files.is_upload(request.method, path):
            return response_of(await files.upload(service, session_id, agent, message, request), message.base)
        body = base64.b64encode(await read_body(request)).decode()
        message = message.model_copy(update={"body": body})
        if files.is_download(request.method, path):
            first, rest = await files.download(service, session_id, agent, message)
            whole = response_of(first)
            return whole if first.size is None else files.streamed(first, whole, rest)
        answer = await unless_gone(request, service.call(session_id, message, agent))
        return Response(status_code=HUNG_UP) if answer is None else response_of(answer, message.base)


def response_of(answer: protocol.Response, base: str | None = None) -> Response:
    """Return the bot's answer as the client gets it.

    Args:
        base: The URL of the session's paths; a redirect that leaves them loses its `Location`.
    """
    try:
        if not 200 <= answer.status <= 599:
            raise ValueError(f"status {answer.status}")
        if len(answer.headers) > MAX_HEADERS:
            raise ValueError(f"{len(answer.headers)} headers; allowed are {MAX_HEADERS}")
        body = base64.b64decode(answer.body, validate=True)
        if body and answer.status in NO_CONTENT:
            raise ValueError(f"status {answer.status} with a body of {len(body)} bytes")
        response = Response(body, answer.status)
        for name, value in answer.headers:
            if not HEADER.fullmatch(f"{name}: {value}"):
                raise ValueError(f"header {name!r}")
            if _is_answered(name.lower()) or (base and _stays_in(base, name, value)):
                response.headers.append(name, value)
    except ValueError as error:
        log.warning("a bot's answer is no HTTP: %s", error)
        raise StartFailed("The bot's answer is not valid HTTP.", code="bad_answer") from error
    return response


def _base(request: Request, path: str) -> str:
    """Return the URL of the session's paths, as the client wrote it."""
    above = request.scope["path"].removesuffix(path).rstrip("/")
    return f"{request.url.scheme}://{request.url.netloc}{above}"


def describe(session: Session) -> dict[str, Any]:
    """Return a session as its owner reads it, with Pipecat Cloud's members among the others."""
    end = session.ended_at
    ready_after = session.ready_at - session.created_at if session.ready_at is not None else None
    return {
        "sessionId": session.id,
        "agent": session.agent,
        "transport": session.transport,
        "state": session.state,
        "phase": session.phase,
        "createdAt": maybe_iso(session.created_at),
        "admittedAt": maybe_iso(session.admitted_at),
        "startedAt": maybe_iso(session.started_at),
        "readyAt": maybe_iso(session.ready_at),
        "activeAt": maybe_iso(session.active_at),
        "endedAt": maybe_iso(end),
        "reason": session.reason,
        "message": session.message,
        "detail": session.detail,
        "exitCode": session.exit_code,
        "durationSeconds": round(end - session.created_at, 3) if end is not None else None,
        "botStartSeconds": round(ready_after) if ready_after is not None else None,
        "timings": session.timings,
        "latency": {"firstWordMs": session.first_word_ms, "turnMs": session.turns_ms},
    }


def _forwarded(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return the caller's headers for the bot, without those that `Connection` names, which concern only this
    hop."""
    named = ",".join(headers.getlist("connection")).split(",")
    dropped = NOT_FORWARDED | {name.strip().lower() for name in named}
    return tuple(
        (name, value)
        for name, value in headers.items()
        if name not in dropped and not name.startswith(CORS_PREFIX)
    )


def _stays_in(base: str, name: str, value: str) -> bool:
    return name.lower() == "location" and urljoin(f"{base}/", value).startswith(f"{base}/")


def _is_answered(name: str) -> bool:
    return name in ANSWERED or (name.startswith(OWN_PREFIX) and not name.startswith(PROXY_PREFIXES))
