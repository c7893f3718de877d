"""Cross-origin requests (the Fetch standard's CORS protocol), for the sites that a public key names.

Callers are known by what they send in `Authorization`, never by a cookie. So a page gains nothing by being
allowed to send a header or to read one: whom it may speak for is decided by the key or token that it has.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Send

MAX_AGE_SECONDS = 600
"""How long a browser need not ask again; Chromium's cap is 7200."""

METHODS = "GET, POST, PUT, PATCH, DELETE, HEAD"


def preflight(headers: Headers) -> Response:
    """The answer to a browser that asks whether it may make a request."""
    allowed = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    if wanted := headers.get("access-control-request-headers"):
        allowed["Access-Control-Allow-Headers"] = wanted
    return Response(status_code=204, headers=allowed)


def with_cors(send: Send, origin: str | None) -> Send:
    """Makes answers that pages of this origin may read; with None, which no page of another site may."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if origin is not None:
                headers["Access-Control-Allow-Origin"] = origin
                # All of them: a bot's own routes have headers that nobody knows here.
                headers["Access-Control-Expose-Headers"] = "*"
            headers.add_vary_header("Origin")
        await send(message)

    return sending
