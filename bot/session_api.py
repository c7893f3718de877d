"""The session API's calls other than offers: the bot's own routes.

A bot adds them to `pipecatcloud_system.app`, as on Pipecat Cloud, or to `pipecat.runner.run.app`, as with the
development runner.

The application is called in this process, without a server or a port.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.machinery
import importlib.util
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bot.files import Files
from bot.logs import logger
from bot.problems import Problem
from bot.protocol import MAX_MESSAGE_BYTES, Request, Response

SYSTEM_MODULE = "pipecatcloud_system"
RUNNER_MODULE = "pipecat.runner.run"

_ENVELOPE_BYTES = 4096
"""Room for the JSON around a response's body."""

_MOST_BYTES = (MAX_MESSAGE_BYTES - _ENVELOPE_BYTES) * 3 // 4
"""Limit on an answer: it is sent in one message, in base64."""

_ANSWER_SECONDS = 600.0
"""Limit on a call: the longest that a dispatcher can be set to wait for an answer. It bounds an endless
stream."""

_State = MutableMapping[str, Any]


class _SystemFinder:
    """Finds Switchboard's `pipecatcloud_system` if no other is installed; FastAPI is imported only if a bot
    asks."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != SYSTEM_MODULE:
            return None
        file = Path(__file__).with_name(f"{SYSTEM_MODULE}.py")
        return importlib.util.spec_from_file_location(name, file)


def offer_pipecatcloud() -> None:
    """Let bot files `import pipecatcloud_system`."""
    if _SystemFinder not in sys.meta_path:
        sys.meta_path.append(_SystemFinder)


class Routes:
    """The bot's own routes, while it runs, and its session's files."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._state: _State = {}
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Run the application's lifespan around the block."""
        async with contextlib.AsyncExitStack() as stack:
            for app in _apps():
                _warn_of_websockets(app)
                state = await stack.enter_async_context(app.router.lifespan_context(app))
                self._state.update(state or {})
            yield

    async def call(self, request: Request) -> Response:
        """Call the route.

        Raises:
            Problem: the bot has no routes at all, or the route raised, or its answer is too large.
        """
        # A piece of an upload has a method of its own: an older machine must not take it for the whole file.
        whole = request if request.piece is None else request.model_copy(update={"method": "POST"})
        scope = _scope(whole, self._state)
        app = _app_of(scope)
        if self._files.takes(whole) and not _has_route(app, scope):
            return _bounded(request, await self._files.call(request))
        if request.piece is not None:
            text = f"The bot's own route '{request.path}' takes no body of more than 2 MiB."
            return Problem(413, "body-too-large", text).to_response(request.id).model_copy(update={"size": 0})
        if app is None:
            text = f"The bot has no routes of its own, so there is nothing at '{request.path}'."
            raise Problem(404, "no-such-route", text)
        call = _Call(request)
        task = asyncio.create_task(app(scope, call.receive, call.send))
        self._running.add(task)
        task.add_done_callback(self._done)
        # The application may do background work after its answer; the call does not wait for it.
        waiting = {task, asyncio.ensure_future(call.complete)}
        await asyncio.wait(waiting, timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if call.is_too_large:
            task.cancel()
            raise _too_large(request, f"more than {_MOST_BYTES}")
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise Problem(500, "route-failed", f"The bot's route '{request.path}' raised an error.")
        if call.complete.done():
            return call.response()
        if task.done():
            raise Problem(500, "route-failed", f"The bot's route '{request.path}' gave no answer.")
        task.cancel()
        text = f"The answer of the bot's route '{request.path}' did not end within {_ANSWER_SECONDS:g} s."
        raise Problem(504, "answer-without-end", text)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.opt(exception=error).error("a route of the bot raised")


class _Call:
    """One request and its response, in ASGI's terms."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._received = False
        self._status = 500
        self._headers: tuple[tuple[str, str], ...] = ()
        self._body = bytearray()
        self.is_too_large = False
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def receive(self) -> dict[str, Any]:
        if not self._received:
            self._received = True
            return {"type": "http.request", "body": base64.b64decode(self._request.body), "more_body": False}
        await asyncio.wait({self.complete})
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            pairs = message.get("headers", ())
            self._headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if len(self._body) > _MOST_BYTES:
                self.is_too_large = True
                self._body.clear()
            done = self.is_too_large or not message.get("more_body", False)
            if done and not self.complete.done():
                self.complete.set_result(None)

    def response(self) -> Response:
        encoded = base64.b64encode(self._body).decode()
        answer = Response(id=self._request.id, status=self._status, headers=self._headers, body=encoded)
        return _bounded(self._request, answer)


def _bounded(request: Request, answer: Response) -> Response:
    """Return the answer, if it fits into a message of the channel.

    Raises:
        Problem: it is too large.
    """
    size = len(answer.body) + sum(len(name) + len(value) + 8 for name, value in answer.headers)
    if size + _ENVELOPE_BYTES > MAX_MESSAGE_BYTES:
        raise _too_large(request, str(len(answer.body) * 3 // 4))
    return answer


def _too_large(request: Request, size: str) -> Problem:
    text = f"The answer of '{request.path}' has {size} bytes; allowed are {_MOST_BYTES}."
    return Problem(502, "answer-too-large", text)


def _apps() -> list[Any]:
    """Return the applications that the bot has imported; import none."""
    apps = (getattr(sys.modules.get(name), "app", None) for name in (SYSTEM_MODULE, RUNNER_MODULE))
    return [app for app in apps if app is not None]


def _warn_of_websockets(app: Any) -> None:
    """Log the WebSocket routes of an application: only HTTP requests are passed on to a session."""
    if paths := sorted(_websockets(app.router.routes)):
        logger.warning(
            f"the bot's WebSocket routes cannot be reached: {', '.join(paths)}. Only HTTP requests are "
            "passed on to a session, no WebSocket yet (docs/bring-your-bot.md)"
        )


def _websockets(routes: Sequence[Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths of WebSocket routes, also of those in mounts and in FastAPI's included routers."""
    from starlette.routing import WebSocketRoute  # imported by the bot, with its application

    for route in routes:
        if isinstance(route, WebSocketRoute):
            yield f"{prefix}{route.path}"
        elif (router := getattr(route, "original_router", None)) is not None:
            yield from _websockets(router.routes, f"{prefix}{route.include_context.prefix}")
        else:
            yield from _websockets(
                getattr(route, "routes", None) or (), f"{prefix}{getattr(route, 'path', '')}"
            )


def _app_of(scope: dict[str, Any]) -> Any:
    """Return the first application with a route for this path, else the first one, which answers 404."""
    apps = _apps()
    matching = (app for app in apps if any(route.matches(scope)[0].value for route in app.router.routes))
    return next(matching, apps[0] if apps else None)


def _has_route(app: Any, scope: dict[str, Any]) -> bool:
    """Return True if the bot has a route of its own for the request."""
    if app is None:
        return False
    from starlette.routing import Match  # imported by the bot, with its application

    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def _scope(request: Request, state: _State) -> dict[str, Any]:
    base = urllib.parse.urlsplit(request.base)
    path = f"{base.path}/{request.path.lstrip('/')}"
    headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in request.headers]
    if base.netloc:
        headers.append((b"host", base.netloc.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.upper(),
        "scheme": base.scheme or "http",
        "path": path,
        "raw_path": urllib.parse.quote(path).encode(),
        "root_path": base.path,
        "query_string": request.query.encode(),
        "headers": headers,
        "client": None,
        "server": None,
        "state": dict(state),
    }
