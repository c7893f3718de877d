"""Binds the session in a request's path to the log context, while the request is served."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from dispatcher.log_context import about

# A session's id is a UUID made here; anything else in its place is a client's own text.
_SESSION = re.compile(r"/sessions/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:/|$)")


class Subjects:
    """ASGI middleware, around everything else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (found := _SESSION.search(scope["path"])):
            with about(session_id=found[1]):
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)
