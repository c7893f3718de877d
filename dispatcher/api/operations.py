"""Routes for operators and the page: health, agents, metrics, and the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dispatcher.api.access import Caller
from dispatcher.api.models import Agents, ReadyStatus, Status
from dispatcher.api.problems import STORE_DOWN_HEADERS, problem
from dispatcher.readiness import Readiness
from dispatcher.sessions.service import SessionService
from dispatcher.telemetry.scrape import Scrape

PAGE = Path(__file__).resolve().parents[1] / "web" / "dist"

# Nothing is loaded from another host, and no script is inline.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "img", "font", "connect")),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=()",
}


_EXPOSITIONS: dict[str, Any] = {
    "text/plain": {"schema": {"type": "string"}},
    "application/openmetrics-text": {"schema": {"type": "string"}},
}
"""Media types of the metrics; the scraper's `Accept` chooses one."""


def add_routes(routes: APIRouter, service: SessionService, readiness: Readiness, scrape: Scrape) -> None:
    """Add the routes of health, readiness, metrics, agents and the voice page."""

    # Load balancers ask with HEAD, too.
    @routes.head("/healthz", response_class=Response)
    @routes.get("/healthz", response_model=Status)
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @routes.head("/readyz", response_class=Response)
    @routes.get("/readyz", response_model=ReadyStatus)
    async def readyz() -> JSONResponse:
        if service.draining:
            return problem(503, "The dispatcher is about to exit.", code="draining")
        if (missing := await readiness.missing()) is not None:
            return problem(503, missing.message, code=missing.code, headers=STORE_DOWN_HEADERS)
        mark = readiness.images.mark
        return JSONResponse({"status": "ok"} if mark is None else {"status": "ok", "images": mark})

    @routes.get("/metrics", response_class=PlainTextResponse, responses={200: {"content": _EXPOSITIONS}})
    async def metrics(request: Request) -> Response:
        """Return the metrics of this replica, for Prometheus."""
        text, media_type = await scrape.exposition(request.headers.get("accept", ""))
        return Response(text, media_type=media_type)

    @routes.get("/v1/agents", response_model=Agents)
    async def agents(request: Request) -> JSONResponse:
        caller: Caller = request.user
        seen = caller.agents or frozenset(service.agents)
        listed = [
            {
                "name": name,
                "transports": list(agent.transports),
                "maxQueueSeconds": agent.max_queue_seconds if agent.max_queued else 0.0,
            }
            for name, agent in service.agents.items()
            if name in seen
        ]
        default = service.default_agent if service.default_agent in seen else None
        return JSONResponse({"agents": listed, "defaultAgent": default})

    @routes.get("/", include_in_schema=False)
    async def page() -> Response:
        index = PAGE / "index.html"
        if not index.is_file():
            return problem(404, "The voice page is not built; 'make up' builds it.")
        return FileResponse(index, headers=PAGE_HEADERS | {"Cache-Control": "no-cache"})


def mount_page(app: FastAPI) -> None:
    """Serve the page's files; their names carry a hash of their content."""
    if (PAGE / "assets").is_dir():
        app.mount("/assets", _Immutable(StaticFiles(directory=PAGE / "assets")))


class _Immutable:
    """Static files that browsers may cache for good: a change of content changes the name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_cached(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                cached = (b"cache-control", b"public, max-age=31536000, immutable")
                message["headers"] = [*message["headers"], cached]
            await send(message)

        await self._app(scope, receive, send_cached)
