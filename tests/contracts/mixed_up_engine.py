"""A real engine, behind a server of its API that ignores filters and mixes containers up on request."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from tests.patience import PATIENCE

LIST = re.compile(r"(/v[0-9.]+)?/containers/json")
LOOK = re.compile(r"((?:/v[0-9.]+)?/containers/)([^/]+)(/json)")
PER_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")


class MixedUpEngine:
    """Passes every call on to the engine at `behind`, over a socket of its own.

    Attributes:
        filters: False: it ignores the filters of a list.
        mixed_up: Name of a container → name of the one that it shows in its place.
    """

    def __init__(self, behind: Path, socket: Path) -> None:
        self.socket = socket
        self.filters = True
        self.mixed_up: dict[str, str] = {}
        self._behind = behind

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[MixedUpEngine]:
        """Serve from a thread with a loop of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="mixed-up-engine")
        thread.start()
        over = asyncio.Event()
        serves = threading.Event()
        served = asyncio.run_coroutine_threadsafe(self._serve(over, serves), loop)
        try:
            assert serves.wait(PATIENCE), "it does not serve"
            yield self
        finally:
            loop.call_soon_threadsafe(over.set)
            served.result(PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(30)
            loop.close()

    async def _serve(self, over: asyncio.Event, serves: threading.Event) -> None:
        connector = aiohttp.UnixConnector(str(self._behind), limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as session:

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                return await self._pass_on(session, request)

            runner = web.ServerRunner(web.Server(handle, handler_cancellation=True, auto_decompress=False))
            await runner.setup()
            await web.UnixSite(runner, str(self.socket)).start()
            serves.set()
            await over.wait()
            await runner.cleanup()

    async def _pass_on(self, session: aiohttp.ClientSession, request: web.BaseRequest) -> web.StreamResponse:
        path, query = request.path, dict(request.query)
        if not self.filters and request.method == "GET" and LIST.fullmatch(path):
            query.pop("filters", None)
        if request.method == "GET" and (look := LOOK.fullmatch(path)):
            path = f"{look[1]}{self.mixed_up.get(look[2], look[2])}{look[3]}"
        async with session.request(
            request.method,
            f"http://engine{path}",
            params=query,
            data=await request.read(),
            headers=_kept(request.headers),
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def _kept(headers: object) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)  # pyright: ignore[reportArgumentType] - of a request or an answer
    for name in PER_CONNECTION:
        kept.popall(name, None)
    return kept
