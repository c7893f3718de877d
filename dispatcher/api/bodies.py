"""Reading request bodies with a limit, before they are in memory."""

from __future__ import annotations

from fastapi import HTTPException, Request

MAX_BODY_BYTES = 1024 * 1024
"""Pipecat Cloud's limit for the body of a start request over `daily` and `webrtc`."""

MAX_FILE_BYTES = 2 * 1024 * 1024
"""Limit on an upload with the form around it: one message of the channel takes 4 MiB of base64 and JSON."""


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The request's whole body; 413 as soon as it is longer than `limit` bytes."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The request's body is larger than {limit} bytes.")
