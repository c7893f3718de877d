"""The versions of an engine's API, before a fake engine: it says which it has, and refuses all others."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from aiohttp import web

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

DOCKER_20, DOCKER_29 = ((1, 12), (1, 41)), ((1, 44), (1, 52))
"""The oldest and the newest version of the API that Docker has."""


class Versioned:
    """An engine with these versions of the API, that can be changed for another one."""

    def __init__(self, handle: Handle, versions: tuple[tuple[int, int], tuple[int, int]] = DOCKER_20) -> None:
        self._handle = handle
        self.versions = versions
        self.pings = 0
        self.away = False
        """Whether it hangs up on whoever asks it."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        oldest, newest = self.versions
        if self.away and request.transport is not None:
            request.transport.abort()
        if request.path == "/_ping":
            self.pings += 1
            return web.Response(text="OK", headers={"Api-Version": "{}.{}".format(*newest)})
        match = re.match(r"/v(\d+)\.(\d+)/", request.path)
        asked = newest if match is None else (int(match[1]), int(match[2]))
        if oldest <= asked <= newest:
            return await self._handle(request)
        words = "client version {}.{} is too {}. {} supported API version is {}.{}".format(
            *asked,
            *(("old", "Minimum", *oldest) if asked < oldest else ("new", "Maximum", *newest)),
        )
        return web.json_response({"message": words}, status=400)


def versionless(request: web.BaseRequest) -> str:
    """A request's path below the version."""
    return re.sub(r"^/v\d+\.\d+/", "/", request.path)
