"""Sessions as callers see them: asked for, waited for, called, stopped.

The row comes first, then the machine. What a client waits for is a change of the row, so it makes no
difference who caused it: the provider, the machine's channel, the reaper, another dispatcher or a restart.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from bot.protocol import Request, Response
from dispatcher.clock import Clock
from dispatcher.machines.channels import Channels
from dispatcher.sessions import failures, idempotency, lifecycle
from dispatcher.sessions.admission import Place
from dispatcher.sessions.changes import Changes
from dispatcher.sessions.errors import (
    AtCapacity,
    InvalidRequest,
    KeyReused,
    Restarting,
    SessionOver,
    StartFailed,
    TookTooLong,
    UnknownAgent,
    UnknownSession,
)
from dispatcher.sessions.idempotency import AlreadyClaimed, Claim
from dispatcher.sessions.launcher import START_SHARE, Launcher
from dispatcher.sessions.ledger import Ledger
from dispatcher.sessions.lifecycle import End, Session, SessionState
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.releases import Releases
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store.store import Store
from dispatcher.tasks import Background, end_tasks, rest
from dispatcher.transports.errors import RoomError, Unacceptable
from dispatcher.transports.transport import Prepared, Transport, Wanted

Wait = Literal["none", "started", "ready"]

COME_BACK_SECONDS = 10.0
"""How long the place in the queue of a caller with a key is kept when its connection is lost."""

UNHEARD = End("abandoned", "The store failed while the session was written, and its caller was told so.")


@dataclass(frozen=True, slots=True)
class Start:
    """A start request, validated in form only."""

    agent: str | None = None
    transport: str | None = None
    body: Any = None
    wanted: Wanted = field(default_factory=Wanted)
    queue_seconds: float = 0.0
    """How long the caller is willing to wait for a line."""
    by: str = "its client"
    """Who asks, for the timeline."""
    owner: str | None = None
    """Whose session it is: the name of the caller's key, if there is one."""
    key: str | None = None
    """The `Idempotency-Key`. The same key of another owner is another key."""
    count: Callable[[], None] | None = None
    """Called once the start is known to repeat no earlier one; raises RateExceeded for one too many."""
    traceparent: str | None = None
    """The trace context of the request."""


@dataclass(frozen=True, slots=True)
class Started:
    """A session that was asked for, and what its client needs to join."""

    session: Session
    client: Mapping[str, Any]
    new: bool = True
    """Whether this request made it; False for a repeated one."""
    place: Place | None = None
    """Where it waits for a line, if it does."""
    keyed: bool = False
    """Whether its caller can come back for it."""
    mark: int | None = None
    """Of `Changes`, from before the session was written; None if it was read, at any time."""


class SessionService:
    """The sessions of this deployment."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        ledger: Ledger,
        launcher: Launcher,
        releases: Releases,
        queue: Queue,
        transports: Mapping[str, Transport],
        channels: Channels,
        changes: Changes,
        clock: Clock,
        background: Background,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._launcher = launcher
        self._releases = releases
        self._queue = queue
        self._transports = transports
        self._channels = channels
        self._changes = changes
        self._clock = clock
        self._background = background
        self._holders: Counter[str] = Counter()
        self._drained = asyncio.Event()

    @property
    def agents(self) -> Mapping[str, AgentSettings]:
        return self._settings.agents

    @property
    def default_agent(self) -> str:
        return self._settings.default_agent or next(iter(self._settings.agents))

    @property
    def draining(self) -> bool:
        """Whether new starts are refused because the dispatcher is about to exit."""
        return self._drained.is_set()

    def refuse(self) -> None:
        """The dispatcher is about to exit: take no new starts, and let nobody wait any longer.

        Starts that are held are answered, held calls are sent away with a retry.
        """
        self._drained.set()
        # Who holds an answer looks again, and sees that.
        self._changes.resumed()

    async def start(self, start: Start) -> Started:
        """Write a session down and have its machine asked for, or have it wait for a line. Waits for neither.

        Raises:
            SessionError: no session was started.
        """
        if self._drained.is_set():
            raise Restarting()
        name, agent, transport_name = self._resolve(start)
        session_id = str(uuid.uuid4())
        claim = self._claim(start, name, session_id)
        if claim is not None and (known := await self._store.claim(claim.id, self._clock.now())):
            return await self._again(claim, known)
        if start.count is not None:
            start.count()
        spends = self._transports[transport_name].prepare_calls
        if spends and await self._queue.would_refuse(name, start.queue_seconds):
            raise self._at_capacity(name, agent, start)
        prepared = await self._prepare(session_id, agent, transport_name, start)
        room = prepared.room
        session = Session(
            id=session_id,
            agent=name,
            transport=transport_name,
            body=start.body,
            ice_servers=list(prepared.ice_servers),
            machine_id=f"m-{session_id}",
            state=SessionState.queued,
            start_timeout_seconds=agent.start_timeout_seconds,
            client_timeout_seconds=agent.client_timeout_seconds,
            max_duration_seconds=agent.max_duration_seconds,
            idle_timeout_seconds=agent.idle_timeout_seconds,
            queue_seconds=start.queue_seconds,
            created_at=self._clock.now(),
            traceparent=start.traceparent,
            owner=start.owner,
            room=None if room is None else asdict(room),
            room_state=None if room is None else "wanted",
        )
        if claim is not None:
            claim = replace(claim, client=prepared.client)
        machine = self._launcher.machine(session)
        mark = self._changes.mark()
        try:
            added = await self._ledger.add(
                session,
                machine,
                self._queue.limits,
                start.by,
                claim,
                lambda m: self._launcher.wanted(session, m),
            )
        except AlreadyClaimed as first:
            return await self._again(first.wanted, first.standing)
        except SQLAlchemyError:
            # It may have been written all the same: a caller with a key comes back for it, others do not.
            if claim is None:
                self._releases.disown(session, UNHEARD)
            else:
                self._launcher.catch_up()
            raise
        if added is None:
            raise self._at_capacity(name, agent, start)
        written, machine = added
        if written.state is SessionState.queued:
            self._queue.nudge()
        else:
            self._launcher.launch(written, machine)
        place = await self._queue.place(written)
        return Started(written, prepared.client, place=place, keyed=claim is not None, mark=mark)

    async def joined(self, started: Started, wait: Wait) -> Started:
        """Hold a start answer for as long as `wait` says.

        The session's own deadlines end the wait: every session moves on or fails. So does an exit of the
        dispatcher: the session is in the store and goes on, so its caller gets what it needs to join it.

        Raises:
            SessionError: the session failed meanwhile.
        """
        session = started.session
        # The client of such a transport can only act once it has the answer.
        if wait == "ready" and self._transports[session.transport].ready_needs_client:
            wait = "started"
        if wait != "none":
            self._holders[session.id] += 1
            try:
                session = await self._held(started, _reached[wait])
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
        return replace(started, session=session, place=await self._queue.place(session))

    async def hang_up(self, started: Started) -> None:
        """The caller of a start is gone before it had an answer: a session that waits gives up its place.

        With an `Idempotency-Key` only after a while, unless the caller has come back with it by then.
        """
        if started.keyed:
            self._background.spawn(self._give_up_later(started.session.id))
        else:
            await self._give_up(started.session.id)

    async def _give_up_later(self, session_id: str) -> None:
        await rest(self._clock, COME_BACK_SECONDS, self._drained)
        if not self._drained.is_set():
            await self._give_up(session_id)

    async def _give_up(self, session_id: str) -> None:
        session = await self._store.session(session_id)
        if session is None or session.state is not SessionState.queued or self._holders[session_id]:
            return
        end = End("abandoned", "The caller hung up while the session waited for a line.")
        await self._releases.close(session, end)

    async def get(self, session_id: str, agent: str | None = None) -> Session:
        """A session, which must be of that agent if one is named."""
        session = await self._store.session(session_id)
        if session is None or agent not in (None, session.agent):
            raise UnknownSession.of(session_id, agent)
        return session

    async def place(self, session: Session) -> Place | None:
        """Where the session waits for a line; None if it does not."""
        return await self._queue.place(session)

    async def stop(self, session_id: str, by: str, agent: str | None = None) -> Session:
        """End a session. Ending one that is over is fine, and changes nothing."""
        session = await self.get(session_id, agent)
        await self._releases.close(session, End("stopped", f"The session was stopped by {by}."), by)
        return await self.get(session_id)

    async def call(self, session_id: str, request: Request, agent: str | None = None) -> Response:
        """Pass a request to the session's bot, holding it until the bot can take it.

        Raises:
            SessionOver: the session was over before.
            StartFailed: the session failed meanwhile; the text says why.
            TookTooLong: the bot did not answer in time.
        """
        session = await self.get(session_id, agent)
        if session.over:
            raise SessionOver(failures.in_words(session))
        answer = asyncio.create_task(self._channels.call(session.machine_id, request))
        end = asyncio.create_task(self._until(session_id, lambda changed: changed.over))
        timer = asyncio.create_task(self._call_timer(session_id))
        exit_ = asyncio.create_task(self._drained.wait())
        waiting = [answer, end, timer, exit_]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if end.done():
                raise StartFailed(failures.in_words(end.result()))
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

    def _claim(self, start: Start, agent: str, session_id: str) -> Claim | None:
        """The hold that the request's key is to have on its session; None without a key."""
        if start.key is None:
            return None
        # What is not said leaves no trace, so that a release that knows of more has the same fingerprints.
        said = {name: value for name, value in asdict(start.wanted).items() if value != {}}
        request = [agent, start.transport, start.body, said]
        return Claim(
            id=idempotency.claim_id(start.owner or "", start.key),
            fingerprint=idempotency.fingerprint(request),
            session_id=session_id,
            client={},
            expires_at=self._clock.now() + idempotency.KEPT_SECONDS,
        )

    async def _again(self, wanted: Claim, standing: Claim) -> Started:
        """Answer a request whose key stands for a session already, as it was answered the first time."""
        if wanted.fingerprint != standing.fingerprint:
            raise KeyReused("The Idempotency-Key was used before, for another request; use a new key.")
        session = await self.get(standing.session_id)
        place = await self._queue.place(session)
        return Started(session, standing.client, new=False, place=place, keyed=True)

    def _resolve(self, start: Start) -> tuple[str, AgentSettings, str]:
        name = start.agent or self.default_agent
        agent = self._settings.agents.get(name)
        if agent is None:
            allowed = ", ".join(self._settings.agents)
            raise UnknownAgent(f"There is no agent '{name}'; allowed: {allowed}.")
        transport = start.transport or agent.transports[0]
        if transport not in agent.transports:
            allowed = ", ".join(agent.transports)
            raise InvalidRequest(f"transport '{transport}' is not offered by {name}; allowed: {allowed}.")
        try:
            self._transports[transport].check(start.wanted)
        except Unacceptable as refusal:
            raise InvalidRequest(str(refusal)) from refusal
        if not 0 <= start.queue_seconds <= agent.max_queue_seconds:
            given, most = f"{start.queue_seconds:g}", f"{agent.max_queue_seconds:g}"
            raise InvalidRequest(f"queue '{given}' is not allowed for {name}; allowed: 0 to {most} seconds.")
        return name, agent, transport

    async def _prepare(self, session_id: str, agent: AgentSettings, transport: str, start: Start) -> Prepared:
        now, longest = self._clock.now(), start.queue_seconds + agent.max_duration_seconds
        until = now + longest + lifecycle.DEADLINE_GRACE_SECONDS
        deadline = now + START_SHARE * agent.start_timeout_seconds
        try:
            return await self._transports[transport].prepare(session_id, start.wanted, until, deadline)
        except RoomError as error:
            raise failures.no_room(error) from error

    def _at_capacity(self, name: str, agent: AgentSettings, start: Start) -> AtCapacity:
        limit = "1 session" if agent.max_sessions == 1 else f"{agent.max_sessions} sessions"
        whole = self._settings.max_sessions
        lines = f"{name} takes {limit} at a time" + (f", and the deployment {whole}" if whole else "")
        if start.queue_seconds > 0:
            lines += f"; {agent.max_queued} callers may wait, and so many do"
        return AtCapacity(f"All lines are busy: {lines}. Please try again later.")

    async def _held(self, started: Started, reached: Callable[[Session], bool]) -> Session:
        """The session as asked for, or as it is when the dispatcher is told to exit."""

        def enough(session: Session) -> bool:
            return reached(session) or self._drained.is_set()

        session = started.session
        return session if enough(session) else await self._until(session.id, enough, started.mark)

    async def _until(
        self, session_id: str, reached: Callable[[Session], bool], since: int | None = None
    ) -> Session:
        session = await self._changes.until_session(session_id, self._store.session, reached, since)
        if session is None:
            raise UnknownSession.of(session_id)
        return session


_reached: Mapping[Wait, Callable[[Session], bool]] = {
    "started": lambda current: (
        current.over or (current.started_at is not None and current.room_state != "wanted")
    ),
    "ready": lambda current: current.over or current.ready_at is not None,
}
