"""Waiting for a session to change, inside one dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """Tells waiters that a session's row changed."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Event]] = {}

    def notify(self, session_id: str) -> None:
        for event in self._waiters.get(session_id, ()):
            event.set()

    async def until(
        self,
        session_id: str,
        read: Callable[[str], Awaitable[T | None]],
        reached: Callable[[T], bool],
    ) -> T | None:
        """Wait until what is read of the session is as asked for; None if there is no such session.

        The caller bounds the wait.
        """
        event = asyncio.Event()
        waiters = self._waiters.setdefault(session_id, set())
        waiters.add(event)
        try:
            while True:
                event.clear()
                found = await read(session_id)
                if found is None or reached(found):
                    return found
                await event.wait()
        finally:
            waiters.discard(event)
            if not waiters:
                self._waiters.pop(session_id, None)
