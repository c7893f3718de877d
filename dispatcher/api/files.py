"""Files of a session, on their way between its client and its bot.

A file that fits one message is sent in one. A larger one is sent in pieces, each after the answer to the one
before:
so the dispatcher holds a few megabytes of any file, and reads no faster than the bot takes it. A machine
older than pieces takes only files of one message.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator

from fastapi import HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from bot import protocol
from bot.protocol import MAX_UPLOAD_BYTES, PIECE_BYTES, Piece
from dispatcher.api.access import Caller
from dispatcher.api.bodies import chunks_of, unfinished_of
from dispatcher.domain.errors import StartFailed
from dispatcher.machines.channels import new_request_id
from dispatcher.sessions.service import SessionService

log = logging.getLogger(__name__)

FILES_PATH = "files"
"""Path for the client's uploads; below it are the files that the bot has left for the client."""

MAX_WHOLE_BYTES = 2 * 1024 * 1024
"""Limit on a file that is sent in one message: with base64 and JSON it takes less than the
message's 4 MiB."""


def is_upload(method: str, path: str) -> bool:
    """Return True if a call is an upload, and the bot has no route of its own there."""
    return method == "POST" and path.strip("/") == FILES_PATH


def is_download(method: str, path: str) -> bool:
    """Return True if a call asks for a file that the bot has left."""
    return method in ("GET", "HEAD") and path.lstrip("/").startswith(f"{FILES_PATH}/")


async def upload(
    service: SessionService, session_id: str, agent: str | None, message: protocol.Request, request: Request
) -> protocol.Response:
    """Pass the body on, as one message or in pieces; return the bot's answer.

    Raises:
        HTTPException: the body is larger than a file may be, or than this machine takes.
        SessionError: the session is over, or its bot does not answer.
    """
    held = bytearray()
    caller: Caller = request.user
    unfinished = unfinished_of(request)
    number, offset = new_request_id(), 0

    async def send(body: bytes, *, is_last: bool) -> protocol.Response:
        piece = Piece(upload=number, offset=offset, is_last=is_last)
        return await service.call(session_id, _numbered(message, method="PUT", piece=piece, body=body), agent)

    try:
        async for chunk in chunks_of(request, MAX_UPLOAD_BYTES):
            unfinished.add(caller, len(chunk))
            held += chunk
            if offset == 0 and len(held) <= MAX_WHOLE_BYTES:
                continue
            while len(held) > PIECE_BYTES:
                answer = await send(bytes(held[:PIECE_BYTES]), is_last=False)
                if answer.size is None:
                    text = (
                        f"The upload is larger than {MAX_WHOLE_BYTES} bytes, the limit of this session's bot."
                    )
                    raise HTTPException(413, text)
                if answer.status != protocol.PIECE_TAKEN:
                    return answer
                offset += PIECE_BYTES
                del held[:PIECE_BYTES]
                unfinished.give_back(caller, PIECE_BYTES)
    finally:
        unfinished.give_back(caller, len(held))
    if offset == 0:
        return await service.call(session_id, _numbered(message, body=bytes(held)), agent)
    return await send(bytes(held), is_last=True)


async def download(
    service: SessionService, session_id: str, agent: str | None, message: protocol.Request
) -> tuple[protocol.Response, AsyncIterator[bytes] | None]:
    """Return the bot's answer, and the pieces that follow; None if the answer is the whole file."""
    first = await service.call(session_id, message.model_copy(update={"start": 0}), agent)
    size = first.size
    if size is None or message.method != "GET":
        return first, None

    async def rest() -> AsyncIterator[bytes]:
        at = len(base64.b64decode(first.body))
        while at < size:
            answer = await service.call(session_id, _numbered(message, start=at), agent)
            body = base64.b64decode(answer.body)
            if answer.size != size or not 0 < len(body) <= size - at:
                # The answer has begun: its end before its length tells the client.
                raise StartFailed("The file changed while it was read.", code="bad_answer")
            yield body
            at += len(body)

    return first, rest()


def streamed(answer: protocol.Response, whole: Response, rest: AsyncIterator[bytes] | None) -> Response:
    """Return the first piece of a file and then the others, as one answer of a known length."""
    whole.headers["content-length"] = str(answer.size)
    if rest is None:
        return whole
    first, others = bytes(whole.body), rest

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async for body in others:
            yield body

    response = StreamingResponse(pieces(), whole.status_code)
    response.raw_headers = whole.raw_headers
    return response


def _numbered(message: protocol.Request, *, body: bytes = b"", **fields: object) -> protocol.Request:
    encoded = base64.b64encode(body).decode()
    return message.model_copy(update={"id": new_request_id(), "body": encoded, **fields})
