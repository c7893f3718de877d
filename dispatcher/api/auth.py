"""Authentication and authorization: Host, Origin, keys and session tokens.

On loopback, without keys, everybody on the machine may do everything. Two checks keep out the pages of other
sites. The Host must be a name of this dispatcher: a page that rebinds its own name to 127.0.0.1 sends that
name. A browser's Origin must be the dispatcher's own or one that `Keys.allows`. With keys, both checks apply
to requests that have an Origin.

No key or token is logged, nor which key nearly matched.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dispatcher.api import access
from dispatcher.api.access import Action, Asked, Caller
from dispatcher.api.cors import preflight, with_cors
from dispatcher.api.problems import problem
from dispatcher.clock import Clock
from dispatcher.domain.errors import UnknownSession
from dispatcher.keys import KeySettings, hash_of
from dispatcher.sessions.service import SessionService
from dispatcher.settings import Settings, is_loopback
from dispatcher.tokens import InvalidToken, SessionTokens

TOKEN_PARAMETER = "token"  # noqa: S105 - its name
"""Parameter with the session's token for a browser's EventSource, which cannot send headers."""


ADMIT = "admit"
"""Key of a request's state: a function that counts the connection as an authenticated client's
(`Admissions.admit`)."""

TOKEN_TAKEN = "/ws/token"  # noqa: S105 - no token: what is left of a path that had one
"""End of the path of a WebSocket whose token was in it."""

SOCKET_TOKEN = "socket_token"  # noqa: S105 - the name of a key
"""Key of a request's state: the token in the URL of a client's WebSocket."""

UNAUTHENTICATED = (Action.open, Action.channel, Action.notify, Action.converse)
"""Actions that need no key, or a secret of another kind."""


class Refused(Exception):
    """The request is refused."""

    def __init__(self, status: int, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.code = code


class Keys:
    """Looks up the caller of a key or a session token."""

    def __init__(
        self,
        keys: tuple[KeySettings, ...],
        tokens: SessionTokens,
        clock: Clock,
        allowed_origins: tuple[str, ...] = (),
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._allowed_origins = frozenset(allowed_origins)

    @property
    def needed(self) -> bool:
        return bool(self._keys)

    @property
    def admit_sites(self) -> bool:
        """True if pages of some other site may call."""
        return not self._keys or bool(self._origins_of_keys())

    def allows(self, origin: str) -> bool:
        """Return True if pages of this other site may call: with a key or token, or without where none is
        needed.

        Without keys these are the pages that this machine serves on any port, such as a client's development
        server, and the origins that the settings name.
        """
        if self._keys:
            return origin in self._origins_of_keys()
        return origin in self._allowed_origins or _is_loopback_origin(origin)

    def _origins_of_keys(self) -> frozenset[str]:
        now = self._clock.now()
        return frozenset(origin for key in self._keys if not _expired(key, now) for origin in key.origins)

    def caller(self, given: str, origin: str | None) -> Caller:
        """Return the caller of this key or token; for a page of another site, check its origin.

        Raises:
            Refused: the key or token is unknown, or not valid for pages of that origin.
        """
        now, hashed = self._clock.now(), hash_of(given).encode()
        # Every key is compared, so that the time taken does not reveal which one nearly matched.
        matches = [key for key in self._keys if hmac.compare_digest(hashed, key.hash.encode())]
        if not matches:
            return self._holder_of(given)
        key = matches[0]
        if _expired(key, now):
            raise Refused(401, f"The key '{key.name}' has expired.", "key_expired")
        if origin is not None and origin not in key.origins:
            raise Refused(403, f"The key '{key.name}' may not be used by pages of the origin '{origin}'.")
        return Caller(key.name, key.scope, key.name, frozenset(key.agents), public=bool(key.origins))

    def _holder_of(self, token: str) -> Caller:
        try:
            session_id = self._tokens.session_id(token)
        except InvalidToken:
            needed = "A valid key or session token is needed: send it as 'Authorization: Bearer <key>'."
            raise Refused(401, needed) from None
        return Caller(access.CLIENT, "session", session_id=session_id)


def bearer_of(headers: Headers) -> str | None:
    """Return the token of `Authorization: Bearer`; None if there is none.

    Raises:
        ValueError: the header occurs twice; a proxy that reads the first and a server that reads the last
            would differ.
    """
    given = headers.getlist("authorization")
    if len(given) > 1:
        raise ValueError(f"Authorization: allowed is one, not {len(given)}")
    scheme, _, token = "".join(given).partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class Gate:
    """ASGI middleware: refuses a request before anything else reads it."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, default_agent: str) -> None:
        self._app = app
        self._keys = keys
        self._default_agent = default_agent
        self._machine_networks = settings.machine_networks
        self._any_host = not is_loopback(settings.host) and settings.public_url is None
        self._public = urlsplit(settings.public_url) if settings.public_url else None
        of_placements = (placement.machine_url for placement in settings.placements.values())
        urls = (settings.public_url, settings.machine_url, *of_placements)
        self._names = {
            settings.host.lower(),
            *settings.allowed_hosts,
            *(urlsplit(url).hostname for url in urls if url),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers, method = Headers(scope=scope), scope.get("method", "WEBSOCKET")
        asked = access.asked(method, scope["path"])
        if asked.action is not Action.channel and self._is_machine(scope):
            await _refuse(
                Refused(403, "A machine may open its channel here, and nothing else."), scope, receive, send
            )
            return
        token = _take_token(scope, asked)
        # A preflight has no key; the request that follows it has one.
        preflighted = headers.get("access-control-request-method") if method == "OPTIONS" else None
        try:
            foreign = self._foreign_origin(headers)
            if foreign is not None:
                wanted = access.asked(preflighted or method, scope["path"])
                if not self._keys.allows(foreign) or wanted.action not in access.FROM_OTHER_SITES:
                    raise Refused(403, f"Pages of the origin '{foreign}' may not call this dispatcher.")
            if foreign is not None or (asked.action in access.FROM_OTHER_SITES and self._keys.admit_sites):
                send = with_cors(send, foreign)
            if foreign is not None and preflighted is not None:
                await preflight(headers)(scope, receive, send)
                return
            state = scope.setdefault("state", {})
            if asked.action is Action.converse and token is not None:
                state[SOCKET_TOKEN] = token
            scope["user"] = self._caller(asked, headers, token, foreign)
            admit = state.get(ADMIT)
            if asked.action not in UNAUTHENTICATED and admit is not None and not admit():
                raise Refused(503, "The dispatcher is at its limit of connections. Try again soon.", "busy")
        except Refused as refused:
            await _refuse(refused, scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_machine(self, scope: Scope) -> bool:
        """Return True if the caller's address belongs to a network of machines (`machine_networks`)."""
        if not self._machine_networks or not scope.get("client"):
            return False
        try:
            address = ipaddress.ip_address(scope["client"][0])
        except ValueError:
            return False
        # A dispatcher that listens on :: as well sees IPv4 addresses in this form.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._machine_networks)

    def _foreign_origin(self, headers: Headers) -> str | None:
        """Return the origin of a page of another site; None for the dispatcher's own page, or without a page.

        Raises:
            Refused: the Host is not a name of this dispatcher.
        """
        hosts = headers.getlist("host")
        if len(hosts) > 1:
            # RFC 9112, 3.2: a proxy that reads the first and a server that reads the last would differ.
            raise Refused(400, f"Host: allowed is one, not {len(hosts)}.")
        host = "".join(hosts)
        # Load balancers and scrapers call by other names and addresses; with keys, the key decides.
        must_be_ours = "origin" in headers or not self._keys.needed
        if must_be_ours and not self._is_our_host(host):
            raise Refused(403, f"The Host '{host}' is not a name of this dispatcher.")
        origin = ", ".join(headers.getlist("origin"))
        if "origin" not in headers or self._is_our_origin(origin, host):
            return None
        return origin

    def _caller(self, asked: Asked, headers: Headers, token: str | None, foreign: str | None) -> Caller:
        if not self._keys.needed or asked.action in UNAUTHENTICATED:
            return access.LOCAL
        try:
            bearer = bearer_of(headers)
        except ValueError as error:
            raise Refused(400, f"{error}.") from None
        caller = self._keys.caller(bearer or token or "", foreign)
        if token is not None and not bearer and caller.kind != "session":
            raise Refused(401, f"A key is never part of a URL; '{TOKEN_PARAMETER}' is for a session's token.")
        if (reason := access.refusal(caller, asked, self._default_agent)) is not None:
            raise Refused(403, reason)
        return caller

    def _is_our_host(self, host: str) -> bool:
        name = _split(f"//{host}").hostname or ""
        return self._any_host or is_loopback(name) or name in self._names

    def _is_our_origin(self, origin: str, host: str) -> bool:
        parsed = _split(origin)
        if parsed.scheme not in ("http", "https"):
            return False
        if self._public is not None and (parsed.scheme, parsed.netloc) == self._public[:2]:
            return True
        return parsed.netloc == host


def own_sessions_only(service: SessionService) -> Callable[[Request], Awaitable[None]]:
    """Dependency of routes: answer 404 for a session that the caller may not see."""

    async def check(request: Request) -> None:
        caller: Caller = request.user
        session_id = request.path_params.get("session_id")
        if session_id is None or caller.sees_all_sessions:
            return
        agent = request.path_params.get("agent")
        if not access.sees(caller, await service.get(session_id, agent)):
            raise UnknownSession.of(session_id, agent)

    return check


def _expired(key: KeySettings, now: float) -> bool:
    return key.expires_at is not None and key.expires_at.timestamp() <= now


def _is_loopback_origin(origin: str) -> bool:
    """Return True for `http(s)://` and a loopback name, with or without a port. Any page can send `null`."""
    parsed = _split(origin)
    exact = origin == f"{parsed.scheme}://{parsed.netloc}" and "@" not in origin
    return exact and parsed.scheme in ("http", "https") and is_loopback(parsed.hostname or "")


def _take_token(scope: Scope, asked: Asked) -> str | None:
    """Remove the session token from a request's URL and return it, so that no log of URLs contains it.

    Only timelines and WebSockets accept it; on the routes of a session's bot, the parameter is the bot's own.
    """
    if asked.action is Action.call:
        return None
    if asked.action is Action.converse and (of_path := _take_token_of_path(scope)) is not None:
        return of_path
    pairs = [pair.partition(b"=") for pair in scope["query_string"].split(b"&")]
    tokens = [value for name, _, value in pairs if unquote_to_bytes(name) == TOKEN_PARAMETER.encode()]
    if not tokens:
        return None
    kept = [pair for pair in pairs if unquote_to_bytes(pair[0]) != TOKEN_PARAMETER.encode()]
    scope["query_string"] = b"&".join(b"".join(pair) for pair in kept)
    return unquote(tokens[0].decode("latin-1")) if asked.action in (Action.follow, Action.converse) else None


def _take_token_of_path(scope: Scope) -> str | None:
    """Remove the token from the path of a WebSocket's URL and return it; None if it has none. Carriers drop a
    URL's query."""
    stem, found, token = scope["path"].rpartition("/ws/")
    if not found:
        return None
    scope["path"] = f"{stem}{TOKEN_TAKEN}"
    scope["raw_path"] = scope["path"].encode()
    return token


_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}


async def _refuse(refused: Refused, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4403, "reason": refused.reason[:100]})
        return
    headers = _HEADERS.get(refused.status, {})
    await problem(refused.status, refused.reason, code=refused.code, headers=headers)(scope, receive, send)


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; empty parts for text that is not a URL, which match nothing."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # Python reads it only when it is asked for: `localhost:80.evil.example` is no name
        return parts
    except ValueError:
        return SplitResult("", "", "", "", "")
