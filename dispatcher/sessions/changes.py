"""Waiting for a session to change, whichever replica changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dispatcher.bus import Bus

T = TypeVar("T")

TOPIC = "changes"


class Changes:
    """Tells waiters, here and at other replicas, that a session's row changed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # In order, so that who is told first does not depend on where objects lie in memory.
        self._waiters: dict[str, dict[asyncio.Event, None]] = {}
        bus.subscribe(TOPIC, self)

    def notify(self, session_id: str) -> None:
        """The row is written."""
        self._wake(session_id)
        self._bus.publish(TOPIC, session_id)

    def received(self, sender: str, payload: str) -> None:
        self._wake(payload)

    def resumed(self) -> None:
        """Changes may have gone unheard: whoever waits reads again."""
        for session_id in self._waiters:
            self._wake(session_id)

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
        waiters = self._waiters.setdefault(session_id, {})
        waiters[event] = None
        try:
            while True:
                event.clear()
                found = await read(session_id)
                if found is None or reached(found):
                    return found
                await event.wait()
        finally:
            del waiters[event]
            if not waiters:
                self._waiters.pop(session_id, None)

    def _wake(self, session_id: str) -> None:
        for event in self._waiters.get(session_id, ()):
            event.set()
