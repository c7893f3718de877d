"""A scripted dispatcher, and machines as real processes that talk to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bot.protocol import (
    BOT_FILE_VARIABLE,
    CHANNEL_PATH,
    MACHINE_TOKEN_VARIABLE,
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Acknowledge,
    Assignment,
    Ended,
    FromDispatcher,
    FromMachine,
    Hello,
    Message,
    Request,
    Response,
    RoomOpen,
    Welcome,
    entrypoint_arguments,
    parse_from_machine,
)
from tests.patience import PATIENCE

CHECKOUT = Path(__file__).resolve().parents[2]
BOTS = Path(__file__).parent / "bots"
TOKEN = "token-of-the-machine"

M = TypeVar("M", bound=Message)


class Dispatcher:
    """Takes down what machines say, and says what a test tells it to.

    Args:
        acknowledges: Whether `ended` is acknowledged as it arrives.
        opens_rooms: Whether a machine hears at once that its session's room is there.
        protocol: The version that it says it speaks.
    """

    def __init__(
        self,
        *,
        acknowledges: bool = True,
        opens_rooms: bool = True,
        heartbeat_seconds: float = 60.0,
        protocol: int = PROTOCOL_VERSION,
    ) -> None:
        self.protocol = protocol
        self.acknowledges = acknowledges
        self.opens_rooms = opens_rooms
        self.heartbeat_seconds = heartbeat_seconds
        self.refuses = False
        self.close_codes: list[int] = []
        """With which machines closed connections, when not in peace."""
        self.heard: list[FromMachine] = []
        self._news = asyncio.Condition()
        self._server: Server | None = None
        self._connection: ServerConnection | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """End the connection without a word, as a proxy does at the limit on a request."""
        assert self._connection is not None
        self._connection.transport.abort()

    async def start(self) -> None:
        """Serve, on the same port as before if it served before."""
        self._server = await serve(
            self._converse,
            "127.0.0.1",
            self._port,
            process_request=self._authenticate,
            max_size=MAX_MESSAGE_BYTES,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Die: the port refuses, and the connection breaks without a word."""
        assert self._server is not None
        if self._connection is not None:
            self._connection.transport.abort()
        self._server.close()
        await self._server.wait_closed()

    async def close_connection(self, code: int) -> None:
        assert self._connection is not None
        await self._connection.close(code)

    async def send(self, message: FromDispatcher) -> None:
        await self.send_text(message.model_dump_json())

    async def send_text(self, frame: str) -> None:
        assert self._connection is not None
        await self._connection.send(frame)

    async def wait_for(
        self, kind: type[M], matches: Callable[[M], bool] = lambda _message: True, *, after: int = 0
    ) -> M:
        """The first message of that kind that matches, among those from number `after` on."""

        def find() -> M | None:
            found = (m for m in self.heard[after:] if isinstance(m, kind) and matches(m))
            return next(found, None)

        try:
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: find() is not None)
        except TimeoutError:
            heard = "\n".join(repr(message)[:300] for message in self.heard)
            raise AssertionError(f"no {kind.__name__} within {PATIENCE} s; heard:\n{heard}") from None
        found = find()
        assert found is not None
        return found

    async def ask(self, method: str, path: str, body: bytes = b"", **fields: Any) -> Response:
        """Return the answer to a call of the session API."""
        request = Request(
            id=uuid.uuid4().hex, method=method, path=path, body=base64.b64encode(body).decode(), **fields
        )
        await self.send(request)
        return await self.wait_for(Response, lambda answer: answer.id == request.id)

    async def call(self, method: str, path: str, body: Any = None, **fields: Any) -> tuple[int, Any]:
        """Return the status and the JSON of the answer to a call of the session API."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.ask(method, path, raw, **fields)
        return response.status, json.loads(base64.b64decode(response.body))

    async def _authenticate(self, connection: ServerConnection, request: Any) -> Any:
        right = request.headers.get("Authorization") == f"Bearer {TOKEN}" and request.path == CHANNEL_PATH
        if self.refuses or not right:
            return connection.respond(HTTPStatus.FORBIDDEN, "no\n")
        return None

    async def _converse(self, connection: ServerConnection) -> None:
        self._connection = connection
        try:
            async for frame in connection:
                message = parse_from_machine(frame)
                if isinstance(message, Hello):
                    await self.send(Welcome(protocol=self.protocol, heartbeat_seconds=self.heartbeat_seconds))
                    if self.opens_rooms and message.session_id is not None:
                        await self.send(RoomOpen())
                if isinstance(message, Ended) and self.acknowledges:
                    await self.send(Acknowledge())
                async with self._news:
                    self.heard.append(message)
                    self._news.notify_all()
        except ConnectionClosed as closed:
            if closed.rcvd is not None:
                self.close_codes.append(closed.rcvd.code)


@asynccontextmanager
async def dispatcher(**options: Any) -> AsyncIterator[Dispatcher]:
    running = Dispatcher(**options)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@dataclass
class Machine:
    """A machine's process."""

    process: asyncio.subprocess.Process
    output: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def exit_code(self) -> int:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"the machine still runs; its output:\n{self.text()}") from None

    def text(self) -> str:
        return self.output.read_text()


def assignment(transport: str = "webrtc", **fields: Any) -> Assignment:
    values = {"session_id": "s-1", "agent": "test", "max_duration_seconds": 60.0, **fields}
    return Assignment(transport=transport, **values)


@asynccontextmanager
async def machine(
    directory: Path,
    bot_file: str | Path,
    url: str,
    assigned: Assignment | None,
    *,
    limits: str = "",
    arguments: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> AsyncIterator[Machine]:
    """Start a machine as a provider does; it is killed at the end if it has not ended by itself.

    Args:
        limits: Arguments of `bot.control.Limits`, for tests that would else wait for real ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    entry = ["-m", "bot"]
    if limits:
        code = f"import bot.runtime as r, bot.control as c; r.main(limits=c.Limits({limits}))"
        entry = ["-c", code]
    given = entrypoint_arguments("m-1", url, assigned) if arguments is None else arguments
    output = directory / "output.log"
    variables = {
        "PATH": os.defpath,
        "HOME": str(directory),
        "PYTHONPATH": str(CHECKOUT),
        MACHINE_TOKEN_VARIABLE: TOKEN,
        BOT_FILE_VARIABLE: str(BOTS / bot_file),
        **(environment or {}),
    }
    with output.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", *entry, *given),
            cwd=directory,
            env={name: value for name, value in variables.items() if value},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        yield Machine(process, output)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
