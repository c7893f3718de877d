"""Who may call: the Host and Origin checks, and the keys.

On loopback no key is asked for, so two checks keep every other page of the internet out: the Host must be a
name of this machine (a page that rebinds its own name to 127.0.0.1 sends that name), and a browser's
Origin must be the dispatcher's own.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bot.protocol import CHANNEL_PATH
from dispatcher.api.problems import problem
from dispatcher.settings import Settings, is_loopback

OPEN_PATHS = ("/healthz", "/readyz", CHANNEL_PATH)
"""Called without a key: by health checks, and by machines, which have tokens of their own."""

KEYED_PREFIXES = ("/start", "/sessions/", "/v1/", "/metrics")
"""What a key is asked for; the rest is the page and its files."""


class Gate:
    """ASGI middleware: refuses what must not come in, before anything else looks at it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._any_host = not is_loopback(settings.host) and settings.public_url is None
        self._public = urlsplit(settings.public_url) if settings.public_url else None
        self._bound_host = settings.host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (refusal := self._refusal(scope)) is None:
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403, "reason": refusal[1][:100]})
            return
        status, reason = refusal
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await problem(status, reason, headers=headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = ", ".join(hosts)
        if not self._is_our_host(host):
            return 403, f"The Host '{host}' is not a name of this dispatcher."
        origin = ", ".join(origins) if origins else None
        if origin is not None and not self._is_our_origin(origin, host):
            return 403, f"Pages of the origin '{origin}' may not call this dispatcher."
        path = scope["path"]
        keyed = path.startswith(KEYED_PREFIXES) and path not in OPEN_PATHS
        if self._keys and keyed and not self._has_key(headers):
            return 401, "A valid key is needed: send it as 'Authorization: Bearer <key>'."
        return None

    def _is_our_host(self, host: str) -> bool:
        name = _split(f"//{host}").hostname or ""
        if self._any_host or is_loopback(name) or name == self._bound_host:
            return True
        return self._public is not None and name == self._public.hostname

    def _is_our_origin(self, origin: str, host: str) -> bool:
        parsed = _split(origin)
        if parsed.scheme not in ("http", "https"):
            return False
        if self._public is not None and (parsed.scheme, parsed.netloc) == self._public[:2]:
            return True
        return parsed.netloc == host

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = key.strip().encode()
        # Every key is compared, so that the time taken does not tell which one came close.
        return sum(hmac.compare_digest(given, ours) for ours in self._keys) > 0


def _split(url: str) -> SplitResult:
    """The parts of a URL; of what is none, empty parts, which are nobody's."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")
