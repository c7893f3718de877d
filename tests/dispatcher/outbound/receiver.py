"""A back end that takes webhooks, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.dispatcher.harness import eventually


@dataclass
class Message:
    """One delivery as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        return self.json["type"]

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass
class Receiver:
    """Takes every message, and answers with the next of `statuses`, then with 204."""

    url: str
    statuses: list[int] = field(default_factory=list)
    location: str | None = None
    messages: list[Message] = field(default_factory=list)

    async def hook(self, request: Request) -> Response:
        self.messages.append(Message(dict(request.headers), await request.body()))
        headers = {} if self.location is None else {"Location": self.location}
        return Response(status_code=self.statuses.pop(0) if self.statuses else 204, headers=headers)

    async def count(self) -> int:
        return len(self.messages)

    async def has(self, number: int) -> list[Message]:
        """The messages, once there are so many."""
        await eventually(self.count, lambda found: found >= number)
        return self.messages


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    receiver = Receiver(f"http://127.0.0.1:{listener.getsockname()[1]}/hooks?tenant=7")
    app = Starlette(routes=[Route("/hooks", receiver.hook, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await eventually(lambda: asyncio.sleep(0, server), lambda found: found.started)
        yield receiver
    finally:
        server.should_exit = True
        await serving
