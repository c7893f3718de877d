"""Following a session's timeline: what happened after an event, as soon as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.clock import Clock
from dispatcher.domain.admission import Place
from dispatcher.domain.model import Session
from dispatcher.domain.timeline import ENDS, Event
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.queue import Queue
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks, rest

PAGE_EVENTS = 200
"""Events of one answer; some 50 KB."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A session, and the events of its timeline after the one that was asked about, oldest first."""

    session: Session
    events: Sequence[Event]
    place: Place | None = None
    """The session's place in the queue; None if it does not wait."""
    more: bool = False
    """True if there are events behind these."""

    @property
    def over(self) -> bool:
        """True if the session's own last event is among these or before them."""
        # The events are read after the session and may know more.
        return (self.session.over and not self.more) or any(event.kind in ENDS for event in self.events)


class TimelineWatcher:
    """Waits for events. Every wait ends at once when the dispatcher is told to exit."""

    def __init__(self, store: Store, queue: Queue, notifier: Notifier, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._notifier = notifier
        self._clock = clock
        self._stopped = asyncio.Event()

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let everybody go who waits: they come back to the next dispatcher with the last event they saw."""
        self._stopped.set()

    async def read(self, session_id: str, after: int = 0) -> Seen | None:
        """Return a page of what happened after that event; None if there is no such session."""
        session = await self._store.session(session_id)
        if session is None:
            return None
        events = await self._store.events(session_id, after, PAGE_EVENTS + 1)
        more = len(events) > PAGE_EVENTS
        return Seen(session, events[:PAGE_EVENTS], await self._queue.place(session), more)

    async def rest(self, seconds: float) -> None:
        """Return after so many seconds, or when the dispatcher is told to exit."""
        await rest(self._clock, seconds, self._stopped)

    async def wait(
        self, session_id: str, after: int, seconds: float, place: int | None = None
    ) -> Seen | None:
        """Wait until something happens, at most for these seconds, and read as `read` does.

        Args:
            place: The place in the queue that is known: another one is something that happened.
        """

        def happened_to(seen: Seen) -> bool:
            moved = place is not None and (seen.place is None or seen.place.number != place)
            return bool(seen.events) or seen.over or moved

        happened = asyncio.create_task(
            self._notifier.until(
                session_id,
                lambda _: self.read(session_id, after),
                happened_to,
                in_queue=place is not None,
            )
        )
        timer = asyncio.create_task(self._clock.sleep(seconds))
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((happened, timer, stopped), return_when=asyncio.FIRST_COMPLETED)
            return happened.result() if happened.done() else await self.read(session_id, after)
        finally:
            await end_tasks(happened, timer, stopped)
