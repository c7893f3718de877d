"""Reading request bodies with a limit, before they are in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import HTTPException, Request

MAX_BODY_BYTES = 1024 * 1024
"""Pipecat Cloud's limit for the body of a start request over `daily` and `webrtc`."""


async def read_body(request: Request, limit: int = MAX_BODY_BYTES, advice: str = "") -> bytes:
    """The request's whole body; 413 as soon as it is longer than `limit` bytes.

    Args:
        advice: Sentence behind the refusal.
    """
    body = bytearray()
    async for chunk in chunks_of(request, limit, advice):
        body += chunk
    return bytes(body)


async def chunks_of(request: Request, limit: int, advice: str = "") -> AsyncIterator[bytes]:
    """Yield the request's body as it comes; 413 as soon as it is longer than `limit` bytes."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise _too_large(limit, advice)
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit, advice)
        yield chunk


def _too_large(limit: int, advice: str) -> HTTPException:
    return HTTPException(413, f"The request's body is larger than {limit} bytes.{advice and f' {advice}'}")
