"""An OpenAI-compatible endpoint on this machine: it transcribes, answers and speaks what it was told to."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .caller import SAMPLE_RATE, Samples

SPEECH_RATE = 24_000
"""Hz, of OpenAI's `pcm` response format."""


@dataclass
class Endpoint:
    """A service with scripted answers, and the requests that it got."""

    transcript: str
    answer: list[str]
    """The language model's tokens."""
    voices: dict[str, Samples]
    """Text → the recording that speaks it, at `SAMPLE_RATE`."""
    key: str = "the-key"
    url: str = ""
    transcribed: list[Samples] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)

    async def transcribe(self, request: Request) -> Response:
        form = await request.body()
        with wave.open(io.BytesIO(form[form.index(b"RIFF") :])) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
            self.transcribed.append(np.frombuffer(file.readframes(file.getnframes()), np.int16))
        return JSONResponse({"text": self.transcript})

    async def chat(self, request: Request) -> Response:
        asked = await request.json()
        self.chats.append(asked)
        head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": asked["model"]}
        deltas = [{"role": "assistant", "content": token} for token in self.answer]
        choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})

        async def events() -> AsyncIterator[str]:
            for choice in choices:
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    async def speak(self, request: Request) -> Response:
        text = (await request.json())["input"]
        self.spoken.append(text)
        speech = soxr.resample(self.voices[text].astype(np.float32), SAMPLE_RATE, SPEECH_RATE)
        return Response(speech.astype(np.int16).tobytes(), media_type="audio/pcm")

    async def serve(self, request: Request) -> Response:
        response = await self._respond(request)
        # Pipecat never closes its OpenAI clients: a connection kept alive would be collected as a leak.
        response.headers["Connection"] = "close"
        return response

    async def _respond(self, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            refusal = {"message": "Incorrect API key provided.", "code": "invalid_api_key"}
            return JSONResponse({"error": refusal}, status_code=401)
        handlers = {
            "audio/transcriptions": self.transcribe,
            "chat/completions": self.chat,
            "audio/speech": self.speak,
        }
        return await handlers[request.path_params["path"]](request)


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[Endpoint]:
    """Serve on a free port of loopback; `endpoint.url` is then its base URL."""
    app = Starlette(routes=[Route("/v1/{path:path}", endpoint.serve, methods=["POST"])])
    # Uvicorn's own logging would change the loggers of the whole process, and with them other tests.
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield endpoint
        finally:
            server.should_exit = True
            await task
