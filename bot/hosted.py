"""Serves the process's one session by HTTP, as Pipecat Cloud's base image does.

Requests come through the routes of `bot.hosted_routes` instead of the dispatcher's channel; the session is
the same `bot.session.Session`. The bot file is imported before the port opens. The process exits with its
session, with status 1 if that failed. After SIGTERM the session goes on, and no other one is taken.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import importlib
import inspect
import socket
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import uvicorn
from pydantic import BaseModel, Field, ValidationError, field_validator

from bot.arguments import HostVariables, UsageError
from bot.health import beat
from bot.hosted_routes import LONGEST_SECONDS, add_routes
from bot.loader import loaded_module
from bot.logs import logger
from bot.outcome import Outcome
from bot.problems import Problem
from bot.protocol import FromMachine, IceServer, Phase, Request, Response
from bot.session import Session
from bot.session_api import SYSTEM_MODULE

OFFER_SECONDS = 120.0
"""Limit on the wait of a SmallWebRTC session for its client's offer, as in the base image."""

_ICE_CONFIG_SECONDS = 5.0
_HANG_UP_SECONDS = 5
"""Wait for answers under way when the session is over."""


def take_port(port: int) -> socket.socket:
    """Return a socket bound to the port, not listening yet.

    Raises:
        UsageError: the port is taken or not allowed.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0", port))  # noqa: S104 - who asks is outside of the container
    except OSError as error:
        listener.close()
        raise UsageError(f"variable PORT is '{port}', which cannot be used: {error.strerror}") from None
    return listener


class Host:
    """The session, and what the routes need of it. Everything but the report belongs to the event loop.

    Args:
        listener: Bound to the port; listens once the bot file is imported.
        grace: Seconds that a bot has to end once it is told to.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        variables: HostVariables,
        listener: socket.socket,
        grace: float,
    ) -> None:
        self.session = Session(
            loop,
            self,
            variables.bot_file,
            grace,
            has_server=True,
            bot_arguments=variables.bot_arguments,
        )
        self.over: asyncio.Future[Outcome] = loop.create_future()
        """The session's outcome; it is never cancelled, so await it shielded."""
        self.answered = asyncio.Event()
        """Set when a client's offer was answered."""
        self._loop = loop
        self._variables = variables
        self._listener = listener
        self._loaded = asyncio.Event()
        self._claimed = False
        self._leaving = False
        self._answers: dict[str, asyncio.Future[Response]] = {}

    async def serve(self) -> Outcome:
        """Import the bot file, serve one session, and tell how it ended."""
        alive = self._variables.health_file and asyncio.create_task(beat(self._variables.health_file))
        session = asyncio.create_task(self.session.run(None))
        try:
            loaded = asyncio.create_task(self._loaded.wait())
            await asyncio.wait({session, loaded}, return_when=asyncio.FIRST_COMPLETED)
            loaded.cancel()
            if not session.done():
                await self._serve_http(session)
            return await session
        finally:
            if alive:
                alive.cancel()

    def told_to_leave(self) -> None:
        """Take no further session; on the second call, or when its time is up, end the current one."""
        if self._leaving or not self._claimed:
            self.session.stop()
        else:
            logger.info("told to exit: the session goes on, and no other is taken")
            self._loop.call_later(self._variables.shutdown_seconds, self.session.stop)
        self._leaving = True

    # For the routes.

    @property
    def claimed(self) -> bool:
        return self._claimed

    def claim(self) -> None:
        """Reserve the process for the session that is starting.

        Raises:
            Problem: there is or was a session, or the process is about to exit.
        """
        if self._leaving:
            raise Problem(503, "leaving", "This process was told to exit, and takes no session.")
        if self._claimed:
            raise Problem(409, "session-taken", "This process has its session already, and serves only one.")
        self._claimed = True
        self._loop.call_later(LONGEST_SECONDS, self.session.stop)

    async def ice_servers(self) -> tuple[IceServer, ...]:
        """Return the STUN and TURN servers that the platform offers; None if it offers none."""
        url = self._variables.ice_config_url
        try:
            config = _IceConfig.model_validate_json(await asyncio.to_thread(_fetch, url))
        except (OSError, http.client.HTTPException, ValidationError, ValueError) as error:
            logger.warning(f"no STUN or TURN servers: {url} does not return them ({error})")
            return ()
        return tuple(
            IceServer(
                urls=tuple(server.urls),
                username=server.username or None,
                credential=server.credential or None,
            )
            for server in config.ice_config.ice_servers
        )

    def expect_offer(self) -> None:
        """End the session if no offer is answered in time."""

        def give_up() -> None:
            if not self.answered.is_set():
                logger.error(f"no offer from a client within {OFFER_SECONDS:g} s")
                self.session.stop()

        self._loop.call_later(OFFER_SECONDS, give_up)

    async def call(self, method: str, path: str, body: bytes) -> Response:
        """Let the session answer a request for its peer connection."""
        encoded = base64.b64encode(body).decode()
        request = Request(id=uuid.uuid4().hex, method=method, path=path, body=encoded)
        answer = self._answers[request.id] = self._loop.create_future()
        try:
            self.session.request(request)
            return await answer
        finally:
            del self._answers[request.id]

    async def readiness(self) -> Any:
        """Say if a session would be taken: before the first one, the answer of the bot file's own `readyz`.

        Raises:
            Exception: any that `readyz` raises.
        """
        if self._leaving:
            return {"ready": False, "status": "leaving"}
        if self._claimed:
            return {"ready": False, "status": "busy"}
        own = getattr(loaded_module(self._variables.bot_file), "readyz", None)
        if own is None:
            return True
        said = own()
        return await said if inspect.isawaitable(said) else said

    # The session's report; called from any thread.

    def phase(self, phase: Phase) -> None:
        logger.debug(f"phase: {phase}")
        if phase == "idle":
            self._loop.call_soon_threadsafe(self._loaded.set)

    def mark(self, name: str) -> None:
        if name == "answer":
            self._loop.call_soon_threadsafe(self.answered.set)

    def ready(self) -> None:
        logger.info("the bot is ready")

    def client_connected(self) -> None:
        logger.info("the client is connected")

    def client_disconnected(self) -> None:
        logger.info("the client is gone")

    def send(self, message: FromMachine) -> None:
        if isinstance(message, Response):
            self._loop.call_soon_threadsafe(self._answer, message)

    def _answer(self, response: Response) -> None:
        answer = self._answers.get(response.id)
        if answer is not None and not answer.done():
            answer.set_result(response)

    async def _serve_http(self, session: asyncio.Task[Outcome]) -> None:
        """Serve the port until the session is over and its callers have their answers."""
        app = importlib.import_module(SYSTEM_MODULE).app
        add_routes(app, self)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=_HANG_UP_SECONDS
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve([self._listener]))
        await asyncio.wait({session, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            # The server exited early: the bot's own lifespan did not start.
            self.session.stop()
            await session
            raise RuntimeError("the bot's application did not start; its log says why")
        self.over.set_result(await session)
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the session, which may go on for long after the first one."""
        yield


class _IceServerConfig(BaseModel):
    urls: list[str]
    username: str | None = None
    credential: str | None = None

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class _IceServers(BaseModel):
    ice_servers: list[_IceServerConfig] = Field(alias="iceServers")


class _IceConfig(BaseModel):
    ice_config: _IceServers = Field(alias="iceConfig")


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_ICE_CONFIG_SECONDS) as answer:  # noqa: S310 - the operator's
        return answer.read()
