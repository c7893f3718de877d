"""A bot of Pipecat Cloud: knows that package's classes, has a route, a lifespan and a readiness of its own.

It writes down in its home what it got, talks over a WebSocket if it has one, and ends when `leave` is there.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import Request
from pipecat.runner.types import DailyRunnerArguments, RunnerArguments, WebSocketRunnerArguments
from pipecatcloud_system import app  # pyright: ignore[reportMissingImports]

if os.environ.get("KNOWS_CLASSES"):
    from pipecatcloud.agent import DailySessionArguments  # noqa: F401  # pyright: ignore[reportUnusedImport]

HOME = Path.home()


@asynccontextmanager
async def lifespan(app):
    yield {"drawer": "open"}


app.router.lifespan_context = lifespan


@app.get("/drawer")
async def drawer(request: Request):
    return {"drawer": request.state.drawer}


async def readyz():
    if (HOME / "not-ready").exists():
        return {"ready": False, "because": "a file says so"}
    if (HOME / "broken").exists():
        raise RuntimeError("the drawer is empty")
    return True


async def bot(runner_args: RunnerArguments):
    seen = {"type": type(runner_args).__name__, "body": runner_args.body, "session": runner_args.session_id}
    if isinstance(runner_args, DailyRunnerArguments):
        seen |= {"room": runner_args.room_url, "token": runner_args.token}
    (HOME / "seen.json").write_text(json.dumps(seen))
    if isinstance(runner_args, WebSocketRunnerArguments):
        async for text in runner_args.websocket.iter_text():
            await runner_args.websocket.send_text(text.upper())
            if text == "bye":
                return
    while not (HOME / "leave").exists():
        if (HOME / "raise").exists():
            raise RuntimeError("the line is dead")
        await asyncio.sleep(0.01)
