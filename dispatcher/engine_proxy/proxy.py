"""The engine's proxy as an HTTP server: reads requests, asks the engine what the rules make of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from dispatcher.clock import Clock
from dispatcher.engine_proxy.reading import Refused
from dispatcher.engine_proxy.rules import Ask, Rules
from dispatcher.machines.container_room import Room, state_of
from dispatcher.machines.provider import MachineState, NoCapacity

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""To the engine's socket. How long an answer may take, only the caller knows."""

ASK_SECONDS = 15.0
"""Between two looks whether the engine is there, and for its answer."""

LOST_AFTER = 4
"""Looks in a row without an answer."""

CHUNK_BYTES = 64 * 1024

ANSWER_HEADERS = ("Content-Type", "Api-Version")


@contextlib.asynccontextmanager
async def serving(rules: Rules, socket: Path, host: str, port: int) -> AsyncIterator[Proxy]:
    """Serve the engine at this socket on this address, until it is left."""
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        # Not an Application: its router would change a path before the rules see it.
        proxy = Proxy(rules, session)
        runner = web.ServerRunner(web.Server(proxy.handle))
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            yield proxy
        finally:
            await runner.cleanup()


async def until_lost(answers: Callable[[], Awaitable[bool]], clock: Clock) -> None:
    """Return once the engine has not answered LOST_AFTER times in a row.

    The socket in our container is the one that the engine had as the container was started. An engine that is
    started again while its containers go on (`live-restore`) has another, which a new start of ours finds.
    """
    missed = 0
    while missed < LOST_AFTER:
        await clock.sleep(ASK_SECONDS)
        missed = 0 if await answers() else missed + 1
    log.error("the engine has not answered for %.0f s: ending, to be started again", LOST_AFTER * ASK_SECONDS)


class Proxy:
    """Rules, and a session whose every connection is the engine's socket."""

    def __init__(self, rules: Rules, session: aiohttp.ClientSession) -> None:
        self._rules = rules
        self._session = session
        self._room = Room(
            lambda: self._answer(rules.info()), lambda: self._answer(rules.listing()), rules.max_containers
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            content = await request.read()
            ask = self._rules.read(request.method, request.raw_path, content)
            if ask.machine is not None:
                return await self._create(request, ask, *ask.machine)
            if ask.container is None:
                return await self._forward(request, ask)
            found = await self._ours(ask.container)
            if ask.starts and state_of(found["State"]["Status"]) is MachineState.gone:
                # As the engine says of one that was started.
                return web.Response(status=304)
            return await self._forward(request, ask, found["Id"])
        except Refused as refused:
            if refused.status != 404:
                log.warning("refused: %r of %r: %s", request.method[:20], request.raw_path[:200], refused)
            return _json({"message": str(refused)}, status=refused.status)
        except aiohttp.ClientError as error:
            # The provider takes it for what it is: nothing is known of what the engine did.
            log.warning("the engine did not answer: %s", error)
            return _json({"message": f"the engine did not answer: {error}"}, status=502)

    async def engine_answers(self) -> bool:
        try:
            async with asyncio.timeout(ASK_SECONDS), self._ask(self._rules.ping()) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _create(
        self, request: web.BaseRequest, ask: Ask, machine_id: str, memory_mb: int
    ) -> web.StreamResponse:
        """Create a container if the host has room: a dispatcher that was taken over asks for any number.

        Raises:
            Refused: it has not. The provider takes the words for `NoCapacity`.
        """
        try:
            await self._room.take(machine_id, memory_mb)
        except NoCapacity as full:
            raise Refused(str(full), 503) from None
        try:
            return await self._forward(request, ask)
        finally:
            self._room.give_back(machine_id)

    async def _answer(self, ask: Ask) -> Any:
        """What the engine answers to a question of our own."""
        async with self._ask(ask) as answer:
            if answer.status != 200:
                raise Refused(f"the engine failed: status {answer.status}", 500)
            return await answer.json()

    async def _ours(self, name: str) -> dict[str, Any]:
        """A container of this deployment. The engine is asked by its id: a name may change hands.

        Raises:
            Refused: there is none, or it is somebody else's, which is the same to the caller.
        """
        async with self._ask(Ask("GET", f"containers/{name}/json")) as answer:
            found = await answer.json() if answer.status == 200 else None
        if found is None and answer.status != 404:
            raise Refused(f"the engine failed: status {answer.status}", 500)
        if found is None or not self._rules.is_ours(found):
            raise Refused(f"No such container: {name}", 404)
        return found

    async def _forward(
        self, request: web.BaseRequest, ask: Ask, container_id: str = ""
    ) -> web.StreamResponse:
        async with self._ask(ask, container_id) as answer:
            if answer.status in (200, 201):
                if ask.keep is not None:
                    return _json(ask.keep(await answer.json()), status=answer.status)
                return await _pass_on(request, answer)
            return web.Response(
                status=answer.status, body=await answer.read(), content_type=answer.content_type
            )

    def _ask(self, ask: Ask, container_id: str = "") -> aiohttp.client._RequestContextManager:
        headers = {"Content-Type": "application/json"} if ask.body is not None else {}
        url = URL(f"http://engine{ask.target(container_id)}", encoded=True)
        return self._session.request(ask.method, url, data=ask.body, headers=headers)


def _json(content: Any, status: int = 200) -> web.Response:
    # As the engine says it: the provider's client knows no `charset` beside it.
    return web.Response(status=status, body=json.dumps(content).encode(), content_type="application/json")


async def _pass_on(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """The engine's answer as it comes: the progress of a pull, log lines."""
    headers = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
        await response.write(chunk)
    await response.write_eof()
    return response
