"""Waiting for a session to change, inside one dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dispatcher.sessions.lifecycle import Session


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
        read: Callable[[str], Awaitable[Session | None]],
        reached: Callable[[Session], bool],
    ) -> Session | None:
        """Wait until the session is as asked for; None if it does not exist. The caller bounds the wait."""
        event = asyncio.Event()
        waiters = self._waiters.setdefault(session_id, set())
        waiters.add(event)
        try:
            while True:
                event.clear()
                session = await read(session_id)
                if session is None or reached(session):
                    return session
                await event.wait()
        finally:
            waiters.discard(event)
            if not waiters:
                self._waiters.pop(session_id, None)
