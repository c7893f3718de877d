"""Sessions as callers see them: asked for, waited for, called, stopped.

The row comes first, then the machine. What a client waits for is a change of the row, so it makes no
difference who caused it: the provider, the machine's channel, the reaper, another dispatcher or a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from bot.protocol import Request, Response
from dispatcher.clock import Clock
from dispatcher.domain.admission import Place
from dispatcher.domain.errors import Restarting, SessionOver, TookTooLong, UnknownSession
from dispatcher.domain.model import End, Session, SessionState, is_of_reserve
from dispatcher.machines.channels import Channels
from dispatcher.sessions import failures
from dispatcher.sessions.held_calls import HeldCalls
from dispatcher.sessions.notifier import Notifier
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.starts import Started, Starts
from dispatcher.sessions.terminator import Terminator
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store.database import is_outage
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks, rest

log = logging.getLogger(__name__)

Wait = Literal["none", "started", "ready"]

COME_BACK_SECONDS = 10.0
"""Time that the place in the queue of a caller with a key is kept when its connection is lost."""

DISOWN_SECONDS = 5.0
"""Limit on holding an error back until its session has ended: a client that tries again at once finds the
capacity free, and one that calls during an outage of the store gets its answer all the same."""


class SessionService:
    """The sessions of this deployment."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        starts: Starts,
        terminator: Terminator,
        queue: Queue,
        channels: Channels,
        notifier: Notifier,
        clock: Clock,
        background: DurableBackground,
    ) -> None:
        self._settings = settings
        self._store = store
        self._starts = starts
        self._terminator = terminator
        self._queue = queue
        self._channels = channels
        self._notifier = notifier
        self._clock = clock
        self._background = background
        self._holders: Counter[str] = Counter()
        self._drained = asyncio.Event()
        self.held_calls = HeldCalls()

    @property
    def agents(self) -> Mapping[str, AgentSettings]:
        return self._settings.agents

    @property
    def default_agent(self) -> str:
        return self._settings.start_agent

    def placements_of(self, agent: str) -> tuple[str, ...]:
        """The names of the placements where an agent's machines may run, in their order."""
        return self._settings.agents[agent].placements or tuple(self._settings.placements)

    @property
    def draining(self) -> bool:
        """True if new starts are refused because the dispatcher is about to exit."""
        return self._starts.draining

    def drain(self) -> None:
        """Refuse new starts. Starts that are held go on waiting."""
        self._starts.draining = True

    def refuse(self) -> None:
        """Refuse new starts, answer those that are held, and send held calls away with a retry."""
        self.drain()
        self._drained.set()
        # Who holds an answer looks again, and sees that.
        self._notifier.resumed()

    async def joined(self, started: Started, wait: Wait) -> Started:
        """Hold a start answer for as long as `wait` says.

        The session's own deadlines end the wait: every session moves on or fails. So does an exit of the
        dispatcher: the session is in the store and goes on, so its caller gets what it needs to join it.

        Raises:
            SessionError: the session failed meanwhile, or was stopped before it was what was waited for.
        """
        session = started.session
        # The client of such a transport can only act once it has the answer.
        if wait == "ready" and started.ready_needs_client:
            wait = "started"
        if wait != "none":
            self._holders[session.id] += 1
            try:
                session = await self._held(started, lambda current: current.over or REACHED[wait](current))
            finally:
                self._holders[session.id] -= 1
                if not self._holders[session.id]:
                    del self._holders[session.id]
        if session.state is SessionState.failed:
            raise (
                failures.failure(session, self._clock.now())
                if started.new
                else failures.failed_before(session)
            )
        if session.over and wait != "none" and not REACHED[wait](session):
            raise SessionOver(failures.in_words(session))
        return replace(started, session=session, place=await self._queue.place(session))

    async def hang_up(self, started: Started) -> bool:
        """The caller of a start is gone before it had an answer: a session that waits gives up its place.

        In the background, where the store does not answer. With an `Idempotency-Key` only after a while,
        unless the caller has come back with it by then. False where that is still to come.
        """
        session_id = started.session.id
        if started.keyed:
            self._background.spawn(self._give_up_later(session_id))
            return False
        try:
            await self._give_up(session_id)
        except SQLAlchemyError as error:
            log.debug("session %s: its place is given back later: %s", session_id, error)
            self._background.persist_later(lambda: self._give_up(session_id))
            return False
        return True

    async def _give_up_later(self, session_id: str) -> None:
        await rest(self._clock, COME_BACK_SECONDS, self._drained)
        if not self._drained.is_set():
            await self._background.persist(lambda: self._give_up(session_id))

    async def _give_up(self, session_id: str) -> None:
        session = await self._store.session(session_id)
        if session is None or session.state is not SessionState.queued or self._holders[session_id]:
            return
        end = End("abandoned", "The caller hung up while the session was queued.")
        await self._terminator.close(session, end)

    async def close_unanswered(self, started: Started, by: str) -> None:
        """End a session whose caller got no answer, and wait a while for that.

        A background task ends it: neither the end of the request nor an outage of the store keeps it. One
        with an `Idempotency-Key` stays, for its caller comes back for it; in the queue, only for a while.
        """
        if started.keyed:
            self._background.spawn(self._give_up_later(started.session.id))
            return
        if not started.new:
            return
        end = End("stopped", f"The session was stopped by {by}, who got no answer to its start.")
        closing = self._terminator.close_unanswered(started.session, end, by)
        timer = asyncio.create_task(self._clock.sleep(DISOWN_SECONDS))
        try:
            await asyncio.wait((closing, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks(timer)

    async def get(self, session_id: str, agent: str | None = None) -> Session:
        """Return a session, which must be of that agent if one is named."""
        session = await self._store.session(session_id)
        if session is None or agent not in (None, session.agent):
            raise UnknownSession.of(session_id, agent)
        return session

    async def place(self, session: Session) -> Place | None:
        """Return the session's place in the queue; None if it does not wait."""
        return await self._queue.place(session)

    async def stop(self, session_id: str, by: str, agent: str | None = None) -> Session:
        """End a session. Ending one that is over is fine, and changes nothing.

        Where the store takes no writes, the machine is ended at once and the row is closed later.
        """
        session = await self.get(session_id, agent)
        end = End("stopped", f"The session was stopped by {by}.")
        try:
            await self._terminator.close(session, end, by)
        except SQLAlchemyError as error:
            if not is_outage(error):
                raise
            # The store is read and cannot be written, as on a full disk: no end is refused for that.
            self._terminator.close_later(session, end, by)
        return await self.get(session_id)

    async def until_over(self, session_id: str) -> Session:
        """Return the session once it is over."""
        return await self._until(session_id, lambda session: session.over)

    async def call(self, session_id: str, request: Request, agent: str | None = None) -> Response:
        """Pass a request to the session's bot, holding it until the bot can take it.

        Raises:
            SessionOver: the session was over before, or has ended meanwhile.
            StartFailed: the session failed before its bot was ready, or fails meanwhile; the text says why.
            TookTooLong: the bot did not answer in time.
            TooManyCalls: as many calls as may be held are.
        """
        session = await self.get(session_id, agent)
        if session.over:
            raise failures.over(session, was_over=True)
        with self.held_calls.hold(session_id, session.owner, request):
            of = self._settings.agents.get(session.agent)
            if is_of_reserve(session.machine_id) or (of is not None and of.reserve is not None):
                session = await self._with_machine(session)
            return await self._answered(session, request)

    async def _with_machine(self, session: Session) -> Session:
        """Return the session once its machine is certain: one of the reserve may lose it to another.

        The session's own deadlines bound the wait.
        """
        found = await self._held(
            Started(session, {}), lambda current: current.over or current.started_at is not None
        )
        if found.over:
            raise failures.over(found, was_over=False)
        if found.started_at is None:
            raise Restarting()
        return found

    async def _answered(self, session: Session, request: Request) -> Response:
        """Hold a call until it is answered, or cannot be any more."""
        answer = asyncio.create_task(self._channels.call(session.machine_id, request))
        end = asyncio.create_task(self._until(session.id, lambda changed: changed.over))
        timer = asyncio.create_task(self._call_timer(session.id))
        exit_ = asyncio.create_task(self._drained.wait())
        waiting = [answer, end, timer, exit_]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if end.done():
                raise failures.over(end.result(), was_over=False)
            if exit_.done():
                raise Restarting()
            timer.result()
            raise TookTooLong(f"The bot did not answer within {self._settings.call_timeout_seconds:g} s.")
        finally:
            await end_tasks(*waiting)

    async def _call_timer(self, session_id: str) -> None:
        """A session that starts is held by its own deadlines; one that runs owes a prompt answer."""
        await self._until(session_id, lambda session: session.over or session.ready_at is not None)
        await self._clock.sleep(self._settings.call_timeout_seconds)

    async def _held(self, started: Started, reached: Callable[[Session], bool]) -> Session:
        """The session as asked for, or as it is when the dispatcher is told to exit."""

        def enough(session: Session) -> bool:
            return reached(session) or self._drained.is_set()

        session = started.session
        return session if enough(session) else await self._until(session.id, enough)

    async def _until(self, session_id: str, reached: Callable[[Session], bool]) -> Session:
        session = await self._notifier.until_session(session_id, self._store.session, reached)
        if session is None:
            raise UnknownSession.of(session_id)
        return session


REACHED: Mapping[Wait, Callable[[Session], bool]] = {
    "started": lambda current: current.started_at is not None and current.room_state != "wanted",
    "ready": lambda current: current.ready_at is not None,
}
"""Value of `wait` → predicate: a start that asked for it is answered."""
