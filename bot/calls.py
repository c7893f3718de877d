"""Calls of the session API: each waits for the part of the session that answers it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TYPE_CHECKING

from bot.logs import logger
from bot.problems import Problem, json_response
from bot.protocol import Request, Response
from bot.session_api import Routes

if TYPE_CHECKING:
    from bot.webrtc import Peer

OFFER_PATH = "api/offer"


class Calls:
    """Answers requests, in the order in which they came as far as one waits for another.

    Args:
        loop: Where they are answered; it need not run yet.
        respond: Takes every answer.
        offered: Told that a client's offer has arrived.
        answered: Told that the answer to one has been given.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        respond: Callable[[Response], None],
        offered: Callable[[], None],
        answered: Callable[[], None],
    ) -> None:
        self.peer: asyncio.Future[Peer] = loop.create_future()
        """Set when offers can be answered."""
        self.loaded: asyncio.Future[None] = loop.create_future()
        """Set when the bot file is imported. Answers to offers wait for it: a client that has an answer then
        has a bot, and a bot that cannot be imported gives the client the same error whichever came first."""
        self.routes: asyncio.Future[Routes] = loop.create_future()
        """Set when the bot runs."""
        self._respond = respond
        self._offered = offered
        self._answered = answered
        self._over: Problem | None = None
        self._is_over = False
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, request: Request) -> None:
        """Answer a request as soon as that can be done."""
        if self._is_over and self._over is None:
            return
        task = asyncio.create_task(self._handle(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self, problem: Problem | None) -> None:
        """The session is over: answer whatever still waits, and whatever comes, with this.

        With None nothing is answered any more: the dispatcher answers, from the session's record.
        """
        self._over, self._is_over = problem, True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, request: Request) -> None:
        try:
            response = await self._answer(request)
        except Problem as problem:
            if problem.status >= 500:
                logger.error(f"{request.method} {request.path}: {problem.detail}")
            response = problem.to_response(request.id)
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            if self._over is None:
                return
            response = self._over.to_response(request.id)
        except Exception:  # noqa: BLE001 - a caller waits for an answer, whatever happened
            logger.exception(f"{request.method} {request.path} failed")
            problem = Problem(
                500, "machine-failed", "The machine could not handle the request; its log says why."
            )
            response = problem.to_response(request.id)
        self._respond(response)

    async def _answer(self, request: Request) -> Response:
        if self._over is not None:
            raise self._over
        if request.path.strip("/") != OFFER_PATH:
            return await (await asyncio.shield(self.routes)).call(request)
        body = base64.b64decode(request.body)
        match request.method.upper():
            case "POST":
                self._offered()
                peer = await asyncio.shield(self.peer)
                answer = await peer.offer(body)
                await asyncio.shield(self.loaded)
                self._answered()
            case "PATCH":
                answer = await (await asyncio.shield(self.peer)).candidates(body)
            case method:
                raise Problem(
                    405, "method-not-allowed", f"{method} is not allowed at {OFFER_PATH}: POST, PATCH."
                )
        return json_response(request.id, 200, answer)
