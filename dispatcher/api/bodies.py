"""Request bodies, read with a limit before they fill memory.

A slow body is held until it is complete. Unfinished bodies are limited per session, per key and in all, with
the limits of held calls (`dispatcher.sessions.held_calls`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from fastapi import HTTPException, Request

from dispatcher.api.access import Caller
from dispatcher.domain.errors import TooManyCalls
from dispatcher.sessions.held_calls import IN_ALL, OF_KEY, OF_SESSION

MAX_BODY_BYTES = 1024 * 1024
"""Pipecat Cloud's limit for the body of a start request over `daily` and `webrtc`."""


class Unfinished:
    """Bytes of unfinished bodies, counted per session token, per key and in all."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[str, str]] = Counter()

    @property
    def bytes(self) -> int:
        return self._bytes.total()

    def add(self, caller: Caller, size: int) -> None:
        """Count more bytes.

        Raises:
            TooManyCalls: The caller or the dispatcher is at its limit; nothing is counted.
        """
        whose, most = _whose(caller)
        if self._bytes[whose] + size > most or self.bytes + size > IN_ALL.bytes:
            raise TooManyCalls("Too many requests are being sent at the same time. Try again in a moment.")
        self._bytes[whose] += size

    def give_back(self, caller: Caller, size: int) -> None:
        """Stop counting these bytes: their body is complete, refused or abandoned."""
        whose, _ = _whose(caller)
        self._bytes[whose] -= size
        if not self._bytes[whose]:
            del self._bytes[whose]


async def read_body(request: Request, limit: int = MAX_BODY_BYTES, advice: str = "") -> bytes:
    """Return the request's whole body; 413 as soon as it exceeds `limit` bytes.

    Args:
        advice: A sentence that is added to the refusal.
    """
    caller: Caller = request.user
    unfinished = unfinished_of(request)
    body = bytearray()
    try:
        async for chunk in chunks_of(request, limit, advice):
            unfinished.add(caller, len(chunk))
            body += chunk
        return bytes(body)
    finally:
        unfinished.give_back(caller, len(body))


async def chunks_of(request: Request, limit: int, advice: str = "") -> AsyncIterator[bytes]:
    """Yield the request's body as it arrives; 413 as soon as it exceeds `limit` bytes."""
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


def unfinished_of(request: Request) -> Unfinished:
    """Return the counter of this application's requests."""
    state = request.app.state
    if not hasattr(state, "unfinished"):
        state.unfinished = Unfinished()
    return state.unfinished


def _whose(caller: Caller) -> tuple[tuple[str, str], int]:
    if caller.session_id is not None:
        return ("session", caller.session_id), OF_SESSION.bytes
    return ("key", caller.owner or ""), OF_KEY.bytes
