"""Module behind a bot's `from pipecatcloud_system import app`, as in Pipecat Cloud's base image.

`bot.session_api.offer_pipecatcloud` provides it under that name, if no real one is installed. A bot adds
routes to `app`; clients reach them as `/sessions/{id}/{path}` of the dispatcher.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

app = FastAPI()


def add_lifespan_to_app(new_lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]]) -> None:
    """Run another lifespan inside the one that `app` has."""
    existing = app.router.lifespan_context

    @asynccontextmanager
    async def combined(app: FastAPI) -> AsyncIterator[Any]:
        async with existing(app) as state, new_lifespan(app):
            yield state

    app.router.lifespan_context = combined
