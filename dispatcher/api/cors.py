"""Cross-origin requests (CORS, in the Fetch standard), for the sites that a public key names.

Callers authenticate by `Authorization`, never by a cookie. So leave to send or read a header gives a page
nothing:
its key or token decides what it may do.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Send

MAX_AGE_SECONDS = 600
"""Time that a browser may cache a preflight's answer; Chromium's cap is 7200."""

METHODS = "GET, POST, PUT, PATCH, DELETE, HEAD"


def preflight(headers: Headers) -> Response:
    """Return the answer to a browser's preflight request."""
    allowed = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    if wanted := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=allowed)


def with_cors(send: Send, origin: str | None) -> Send:
    """Return a `send` that lets pages of this origin read the answers; with None, no page of another site
    may."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if origin is not None:
                headers["Access-Control-Allow-Origin"] = origin
                # All headers: a bot's own routes have some that are unknown here.
                headers["Access-Control-Expose-Headers"] = "*"
            headers.add_vary_header("Origin")
        await send(message)

    return sending
