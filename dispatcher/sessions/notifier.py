"""Waiting for a session to change, whichever replica changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dispatcher.bus import Bus
from dispatcher.clock import Clock
from dispatcher.domain.model import Session

T = TypeVar("T")

TOPIC = "changes"

QUEUE = "*"
"""In the place of a session's id: the queue moved."""

POLL_SECONDS = 2.0
"""Between two reads of who waits while the bus is down: 1,000 held starts cost 500 reads a second."""


@dataclass(eq=False, slots=True)
class _Waiter:
    reached: Callable[[Session], bool] | None
    """Predicate: accept the notified row without reading it again. None: read it again."""
    in_queue: bool = False
    wakes: asyncio.Event = field(default_factory=asyncio.Event)
    found: Session | None = None

    def hear(self, written: Session | None) -> None:
        if written is None or self.reached is None:
            self.wakes.set()
        elif self.reached(written):
            self.found = written
            self.wakes.set()


class Notifier:
    """Tells waiters, here and at other replicas, that a session's row changed."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # In order, so that who is told first does not depend on where objects lie in memory.
        self._waiters: dict[str, dict[_Waiter, None]] = {}
        bus.subscribe(TOPIC, self)

    def notify(self, session_id: str, written: Session | None = None) -> None:
        """The row is written; like this, where that is known."""
        self._wake(session_id, written)
        self._bus.publish(TOPIC, session_id)

    def queue_moved(self) -> None:
        """Sessions that wait for a slot have other places now; their rows are as they were.

        One message for all of them: who watches no place is not woken.
        """
        self._wake_queue()
        self._bus.publish(TOPIC, QUEUE)

    def received(self, sender: str, payload: str) -> None:
        if payload == QUEUE:
            self._wake_queue()
        else:
            self._wake(payload, None)

    def resumed(self) -> None:
        """Have every waiter read again: notifications may have been lost."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.hear(None)

    async def poll(self, clock: Clock) -> None:
        """Have everybody who waits read again from time to time while the bus is down, until cancelled."""
        while not self._bus.alone:
            await clock.sleep(POLL_SECONDS)
            if not self._bus.stands:
                self.resumed()

    async def until(
        self,
        session_id: str,
        read: Callable[[str], Awaitable[T | None]],
        reached: Callable[[T], bool],
        *,
        in_queue: bool = False,
    ) -> T | None:
        """Wait until what is read of the session is as asked for; None if there is no such session.

        The caller bounds the wait.

        Args:
            in_queue: Whether the session's place in the queue is part of what is read.
        """
        waiter = self._enter(session_id, _Waiter(None, in_queue=in_queue))
        try:
            while True:
                waiter.wakes.clear()
                found = await read(session_id)
                if found is None or reached(found):
                    return found
                await waiter.wakes.wait()
        finally:
            self._leave(session_id, waiter)

    async def until_session(
        self,
        session_id: str,
        read: Callable[[str], Awaitable[Session | None]],
        reached: Callable[[Session], bool],
    ) -> Session | None:
        """Wait for the row alone: what this replica writes meanwhile is not read again.

        Args:
            reached: Once true of a session, it stays so: writes of one row may be told out of their order.
        """
        waiter = self._enter(session_id, _Waiter(reached))
        try:
            while waiter.found is None:
                waiter.wakes.clear()
                found = await read(session_id)
                if found is None or reached(found):
                    return found
                await waiter.wakes.wait()
            return waiter.found
        finally:
            self._leave(session_id, waiter)

    def _enter(self, session_id: str, waiter: _Waiter) -> _Waiter:
        self._waiters.setdefault(session_id, {})[waiter] = None
        return waiter

    def _leave(self, session_id: str, waiter: _Waiter) -> None:
        waiters = self._waiters[session_id]
        del waiters[waiter]
        if not waiters:
            del self._waiters[session_id]

    def _wake_queue(self) -> None:
        for waiters in self._waiters.values():
            for waiter in waiters:
                if waiter.in_queue:
                    waiter.hear(None)

    def _wake(self, session_id: str, written: Session | None) -> None:
        for waiter in self._waiters.get(session_id, ()):
            waiter.hear(written)
