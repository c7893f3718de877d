"""Calls and answers; and the fake behind httpx in the same process, or behind a port of this host."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

import httpx

from tests.served import served as served_app


@dataclass(frozen=True)
class Call:
    """A request, as a handler sees it."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    """Their names in small letters."""
    body: Any = None
    operation: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    """Those in the path."""

    def flag(self, name: str) -> bool:
        """True if a boolean parameter is true."""
        return self.query.get(name, ["false"])[-1] == "true"

    def values(self, name: str) -> list[str]:
        """A parameter that may be repeated, or be a list with commas."""
        return [value for one in self.query.get(name, []) for value in one.split(",")]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An answer that is an error, in Fly's shape."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.answer = Answer(
            status, {"error": message} if code is None else {"error": message, "status": code}, headers
        )


class Dropped(Exception):
    """The connection ends without an answer."""


class Handles(Protocol):
    async def handle(self, call: Call) -> Answer: ...


class InProcess(httpx.AsyncBaseTransport):
    """The fake behind httpx, without a port: for a clock that no socket would wait for.

    A call goes on when whoever made it has gone away, as it does on the other side of a network.
    """

    def __init__(self, fake: Handles) -> None:
        self._fake = fake
        self._calls: set[asyncio.Task[Answer]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        task = asyncio.create_task(
            self._fake.handle(
                _call(
                    request.method,
                    request.url.path,
                    request.url.query.decode(),
                    dict(request.headers),
                    request.content,
                )
            )
        )
        self._calls.add(task)
        task.add_done_callback(self._done)
        try:
            answer = await asyncio.shield(task)
        except Dropped as error:
            raise httpx.ReadError("the connection was closed", request=request) from error
        return httpx.Response(answer.status, content=_encoded(answer), headers=_headers(answer))

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited for it has it


class Application:
    """The fake as an ASGI application."""

    def __init__(self, fake: Handles) -> None:
        self._fake = fake

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        content, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return  # a client that was killed before its request was whole has asked for nothing
            content += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        call = _call(scope["method"], scope["path"], scope["query_string"].decode(), headers, content)
        try:
            answer = await self._fake.handle(call)
        except Dropped:
            # A body that is shorter than announced: the server closes the connection.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            return
        written = [(name.encode(), value.encode()) for name, value in _headers(answer).items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": written})
        await send({"type": "http.response.body", "body": _encoded(answer)})


def served(fake: Handles) -> contextlib.AbstractContextManager[str]:
    """The fake behind a port of this host; gives its URL."""
    return served_app(Application(fake))


def _call(method: str, path: str, query: str, headers: Mapping[str, str], content: bytes) -> Call:
    parsed = parse_qs(query, keep_blank_values=True)
    body = json.loads(content) if content else None
    return Call(method, unquote(path), parsed, {name.lower(): headers[name] for name in headers}, body)


def _encoded(answer: Answer) -> bytes:
    return b"" if answer.body is None else json.dumps(answer.body).encode()


def _headers(answer: Answer) -> dict[str, str]:
    return {"content-type": "application/json", **answer.headers}
