"""Has routes of its own, in Pipecat Cloud's way."""

import asyncio
from contextlib import asynccontextmanager

from fastapi import Request
from pipecatcloud_system import add_lifespan_to_app, app  # pyright: ignore[reportMissingImports]

started = []


@asynccontextmanager
async def lifespan(app):
    started.append("lifespan")
    yield


add_lifespan_to_app(lifespan)


@app.put("/echo/{word}")
async def echo(word: str, request: Request):
    return {
        "word": word,
        "query": dict(request.query_params),
        "body": await request.json(),
        "started": started,
    }


counted = []


@app.post("/count")
async def count():
    counted.append(1)
    return {"count": len(counted)}


@app.get("/broken")
async def broken():
    raise RuntimeError("the drawer is empty")


@app.get("/huge")
async def huge():
    return "x" * (5 * 1024 * 1024)


async def bot(runner_args):
    await asyncio.sleep(3600)
