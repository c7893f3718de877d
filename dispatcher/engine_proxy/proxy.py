"""The engine's proxy as an HTTP server: reads requests, and calls the engine as the rules say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import web
from yarl import URL

from dispatcher.domain.model import MachineState
from dispatcher.engine_proxy.firewall import Firewall, NoFirewall
from dispatcher.engine_proxy.reading import Refused
from dispatcher.engine_proxy.rules import Ask, Rules
from dispatcher.machines.container import request as container_version
from dispatcher.machines.container.capacity import Capacity, state_of
from dispatcher.machines.container.request import PING
from dispatcher.machines.provider import NoCapacity

log = logging.getLogger(__name__)

T = TypeVar("T")

CALL_SECONDS = 10.0
"""Limit on one answer of the engine, pulls and the grace of a stop not counted. The provider waits as long
for its whole call (`container.CALL_SECONDS`): after that there is no caller."""

CHUNK_BYTES = 64 * 1024

WORDS = 500
"""Limit on the characters of an engine's refusal that are passed on and logged."""

ANSWER_HEADERS = ("Content-Type", "Api-Version")


@contextlib.asynccontextmanager
async def serving(
    rules: Rules,
    socket: Path,
    host: str,
    port: int,
    call_seconds: float = CALL_SECONDS,
    firewall: Path | None = None,
) -> AsyncIterator[Proxy]:
    """Serve the engine at this socket on this address, for as long as the block runs.

    Args:
        firewall: The socket of the stack's firewall, if it has one.
    """
    connector = aiohttp.UnixConnector(str(socket), limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        proxy = Proxy(rules, session, call_seconds, firewall)
        # Not an Application: its router would change a path before the rules see it. A caller's request is
        # cancelled when it hangs up, because it relies on that. A body is not decompressed, so that the
        # rules can refuse compression.
        server = web.Server(proxy.handle, handler_cancellation=True, auto_decompress=False)
        runner = web.ServerRunner(server)
        await runner.setup()
        watched = asyncio.create_task(proxy.firewall.watch())
        try:
            await web.TCPSite(runner, host, port).start()
            yield proxy
        finally:
            watched.cancel()
            await asyncio.gather(watched, return_exceptions=True)
            await runner.cleanup()
            await proxy.close()


class Proxy:
    """The rules, and an HTTP session that connects to the engine's socket."""

    def __init__(
        self, rules: Rules, session: aiohttp.ClientSession, call_seconds: float, firewall: Path | None = None
    ) -> None:
        self._rules = rules
        self._session = session
        self._newest: str | None = None
        """The engine's API version, for the proxy's own calls; None if unknown."""
        self._call_seconds = call_seconds
        self._creating: set[str] = set()
        """Machines that are being created, until the engine has answered, with or without a caller."""
        self._starting: dict[str, asyncio.Task[tuple[int, bytes, str]]] = {}
        """Container's name → its start, until the engine has answered."""
        self._looks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Container's name → lock, for as long as somebody asks for its start."""
        self._carried: set[asyncio.Task[Any]] = set()
        self._capacity = Capacity(lambda: self._answer(rules.info()), self._listed, rules.max_containers)
        self.firewall: Firewall | NoFirewall = NoFirewall()
        if firewall is not None:
            self.firewall = Firewall(firewall, lambda: self._answer(rules.network()), rules.is_bot)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if "Content-Encoding" in request.headers:
                raise Refused("Content-Encoding: is refused")
            content = await request.read()
            ask = self._rules.read(request.method, request.raw_path, content)
            if ask.path == PING:
                return await self._health()
            if ask.machine is not None:
                return await self._create(request, ask, *ask.machine)
            if ask.container is None:
                return await self._forward(request, ask)
            if ask.starts:
                return await self._start(ask, ask.container)
            found = await self._ours(ask.container, ask.version)
            if ask.is_new and state_of(found["State"]["Status"]) is not MachineState.requested:
                raise Refused(f"container {ask.container} has run: nothing is handed over to it", 409)
            return await self._forward(request, ask, found["Id"])
        except Refused as refused:
            if refused.status != 404:
                log.warning("refused: %r of %r: %s", request.method[:20], request.raw_path[:200], refused)
            return _json({"message": str(refused)}, status=refused.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            # When it answers again, it may have another version.
            self._newest = None
            # The provider reads this as `Unreachable`: it is unknown what the engine did.
            why = f"the engine did not answer: {str(error) or 'it takes too long'}"
            log.warning("%s", why)
            return _json({"message": why}, status=504 if isinstance(error, TimeoutError) else 502)

    async def close(self) -> None:
        """Cancel the pending calls to the engine."""
        for task in self._carried:
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)

    async def _create(
        self, request: web.BaseRequest, ask: Ask, machine_id: str, memory_mb: int
    ) -> web.StreamResponse:
        """Create a container if the host has room; a compromised dispatcher may ask for any number.

        Raises:
            Refused: there is no room. The provider reads the text as `NoCapacity`.
            TimeoutError: the engine has not answered yet.
        """
        if machine_id in self._creating:
            # As the engine answers for a taken name: else the first of two creates would free both memories.
            raise Refused(f"Conflict. Machine {machine_id} is being created", 409)
        self._creating.add(machine_id)
        try:
            await self.firewall.check()
            await self._capacity.take(machine_id, memory_mb)
        except BaseException as error:
            self._creating.discard(machine_id)
            if isinstance(error, NoCapacity):
                raise Refused(str(error), 503) from None
            raise

        async def create() -> web.StreamResponse:
            try:
                return await self._forward(request, ask)
            finally:
                self._capacity.give_back(machine_id)
                self._creating.discard(machine_id)

        async with asyncio.timeout(self._call_seconds):
            return await asyncio.shield(self._carry(create()))

    async def _start(self, ask: Ask, name: str) -> web.StreamResponse:
        """Start a container that was never started: a second start would give it another whole lifetime, and
        its memory is no longer counted.

        Concurrent callers share one start, and check one at a time: between one caller's check and start, the
        container could have ended.
        """
        look = self._looks.setdefault(name, asyncio.Lock())
        async with asyncio.timeout(self._call_seconds):
            async with look:
                if (task := self._starting.get(name)) is None:
                    found = await self._ours(name, ask.version)
                    if state_of(found["State"]["Status"]) is not MachineState.requested:
                        # As the engine answers for a started container.
                        return web.Response(status=304)
                    await self.firewall.hold()
                    task = self._starting[name] = self._carry(self._start_now(ask, found["Id"]))
                    task.add_done_callback(lambda _: self._starting.pop(name))
            status, content, kind = await asyncio.shield(task)
        return web.Response(status=status, body=content, content_type=kind)

    async def _start_now(self, ask: Ask, container_id: str) -> tuple[int, bytes, str]:
        async with self._ask(ask, container_id) as answer:
            found = answer.status, await answer.read(), answer.content_type
        try:
            # A service may have ended since the look before the start, and the bot have its address.
            await self.firewall.hold()
        except (Refused, aiohttp.ClientError, TimeoutError) as error:
            # It runs, which the caller must know. The next look makes up for this one.
            log.warning("the bots' network was not looked at after a start: %s", error or "it takes too long")
        return found

    def _carry(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Make a change at the engine to its end, whether or not the caller still waits: a container's
        reserved memory depends on the answer."""
        task = asyncio.create_task(change)
        self._carried.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._carried.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: waiting callers have it

    async def _health(self) -> web.Response:
        """Return whether the engine works, and its newest version.

        A ping alone would succeed even if the engine refused all other calls.
        """
        newest = await self._learn()
        await self._answer(self._rules.info())
        await self.firewall.hold()
        return web.Response(text="OK", headers={container_version.HEADER: newest})

    async def _learn(self) -> str:
        async with self._ask(self._rules.ping()) as answer:
            await self._good(answer)
            self._newest = answer.headers.get(container_version.HEADER, "")
            return self._newest

    async def _answer(self, ask: Ask) -> Any:
        """Return the engine's answer to a call of the proxy's own, in the engine's version."""
        newest = await self._learn() if self._newest is None else self._newest
        async with self._ask(replace(ask, version=container_version.chosen(newest))) as answer:
            await self._good(answer)
            return await answer.json()

    async def _listed(self) -> list[dict[str, Any]]:
        return self._rules.listed(await self._answer(self._rules.listing()))

    async def _good(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status != 200:
            self._newest = None
            words = (await answer.text(errors="replace"))[:WORDS]
            raise Refused(f"the engine failed: status {answer.status}: {words}", 500)

    async def _ours(self, name: str, version: str) -> dict[str, Any]:
        """Return a container of this deployment. The engine is then called by its id: a name may be reused.

        Raises:
            Refused: it does not exist, or is not this deployment's; the caller sees no difference.
        """
        async with self._ask(Ask("GET", f"containers/{name}/json", version=version)) as answer:
            found = await answer.json() if answer.status == 200 else None
        if found is None and answer.status != 404:
            raise Refused(f"the engine failed: status {answer.status}", 500)
        if found is None or not self._rules.is_ours(found, name):
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
        total = None if ask.waits is None else self._call_seconds + ask.waits
        timeout = aiohttp.ClientTimeout(total=total, sock_connect=self._call_seconds)
        return self._session.request(ask.method, url, data=ask.body, headers=headers, timeout=timeout)


def _json(content: Any, status: int = 200) -> web.Response:
    # As the engine sends it: the provider's client accepts no `charset` beside it.
    return web.Response(status=status, body=json.dumps(content).encode(), content_type="application/json")


async def _pass_on(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Stream the engine's answer: the progress of a pull, log lines.

    If the engine breaks off, break off too: the status has been sent, and the caller must notice that the end
    is missing.
    """
    headers = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
            await response.write(chunk)
    except (aiohttp.ClientError, TimeoutError) as error:
        log.warning("an answer broke off: %s", str(error) or "it takes too long")
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response
