"""Has routes of its own, in Pipecat Cloud's way."""

import asyncio
from contextlib import asynccontextmanager

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import StreamingResponse
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
streamed = []


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


@app.get("/endless")
async def endless():
    async def chunks():
        while True:
            streamed.append(1)
            yield b"x" * 65536
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


@app.get("/streamed")
async def how_much():
    return {"chunks": len(streamed)}


@app.get("/story")
async def story():
    async def words():
        for word in ("once ", "upon ", "a time"):
            await asyncio.sleep(0)
            yield word

    return StreamingResponse(words(), media_type="text/plain")


@app.get("/links/")
async def links(request: Request):
    return {"mine": str(request.url_for("links"))}


@app.websocket("/ears")
async def ears(websocket: WebSocket): ...


router = APIRouter(prefix="/deep")


@router.websocket("/inside")
async def inside(websocket: WebSocket): ...


app.include_router(router)


async def bot(runner_args):
    await asyncio.sleep(3600)
