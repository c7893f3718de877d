"""Start of a session: check the request, write the session down, have its machine asked for.

The row comes first, then the machine.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dispatcher.agent_images import AgentImages
from dispatcher.clock import Clock
from dispatcher.disk import Disk
from dispatcher.domain import deadlines, idempotency, transitions
from dispatcher.domain.admission import Place
from dispatcher.domain.errors import (
    AtCapacity,
    DiskFull,
    InvalidRequest,
    KeyReused,
    NoImage,
    Restarting,
    UnknownAgent,
    UnknownSession,
)
from dispatcher.domain.idempotency import AlreadyClaimed, Claim
from dispatcher.domain.model import End, Machine, MachineState, Session, SessionState
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import Throttled
from dispatcher.rate_limit import StartRates
from dispatcher.sessions import failures
from dispatcher.sessions.launcher import Launcher
from dispatcher.sessions.queue import Queue
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.terminator import Terminator
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store.store import Store
from dispatcher.transports.errors import RoomError, Unacceptable
from dispatcher.transports.transport import Prepared, Transport, Wanted

UNHEARD = End("abandoned", "The start failed while the session was written, and its caller got no session.")


@dataclass(frozen=True, slots=True)
class Start:
    """A start request, validated in form only."""

    agent: str | None = None
    transport: str | None = None
    body: Any = None
    wanted: Wanted = field(default_factory=Wanted)
    queue_seconds: float = 0.0
    """Longest wait in the queue that the caller accepts."""
    by: str = "its client"
    """The caller, for the timeline."""
    owner: str | None = None
    """The session's owner: the name of the caller's key, if there is one."""
    key: str | None = None
    """The `Idempotency-Key`. The same key of another owner is another key."""
    traceparent: str | None = None
    """The trace context of the request."""


@dataclass(frozen=True, slots=True)
class Started:
    """A session that was asked for, and what its client needs to join."""

    session: Session
    client: Mapping[str, Any]
    new: bool = True
    """True if this request made it; False for a repeated one."""
    place: Place | None = None
    """Its place in the queue, if it waits."""
    keyed: bool = False
    """True if its caller can come back for it."""
    ready_needs_client: bool = False
    """True if its bot gets ready only after its client has connected, as `Transport.ready_needs_client`."""


class Starts:
    """Writes sessions down, admitted or queued, and has their machines asked for."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        repository: Repository,
        launcher: Launcher,
        terminator: Terminator,
        queue: Queue,
        transports: Mapping[str, Transport],
        fleet: Fleet,
        images: AgentImages,
        disk: Disk,
        clock: Clock,
    ) -> None:
        self._agents = settings.agents
        self._default_agent = settings.start_agent
        self._deployment_limit = settings.max_sessions
        self._store = store
        self._repository = repository
        self._launcher = launcher
        self._terminator = terminator
        self._queue = queue
        self._transports = transports
        self._fleet = fleet
        self._images = images
        self._disk = disk
        self._clock = clock
        self._rates = StartRates(settings.keys, clock)
        self.draining = False
        """True to refuse new starts, because the dispatcher is about to exit."""

    async def start(self, start: Start) -> Started:
        """Write a session down, admitted or queued, and have its machine asked for. Waits for neither.

        Raises:
            SessionError: no session was started.
        """
        if self.draining:
            raise Restarting()
        name, agent, transport_name = self._resolve(start)
        session_id = str(uuid.uuid4())
        claim = self._claim(start, name, session_id)
        if claim is not None and (known := await self._store.claim(claim.id, self._clock.now())):
            return await self._again(claim, known)
        if self._disk.is_full():
            raise DiskFull("The dispatcher's disk is full: free some of it, and try again.")
        if name in self._images.missing:
            raise NoImage(f"The image of {name}'s machines is not known yet: `make up` is not over.")
        self._check_delay(f"m-{session_id}", agent, start.queue_seconds)
        counted = self._rates.count(start.owner, start.key)
        try:
            return await self._add(start, name, agent, transport_name, session_id, claim)
        finally:
            if counted:
                self._rates.done(start.owner, start.key)

    async def _add(
        self,
        start: Start,
        name: str,
        agent: AgentSettings,
        transport_name: str,
        session_id: str,
        claim: Claim | None,
    ) -> Started:
        """Write down a session that is new and may be started."""
        spends = self._transports[transport_name].prepare_calls
        if spends and await self._queue.would_refuse(name, start.queue_seconds):
            raise self._at_capacity(name, agent, start)
        prepared = await self._prepare(session_id, agent, transport_name, start)
        room, now = prepared.room, self._clock.now()
        longest = agent.max_duration_seconds
        if room is not None:
            longest = deadlines.allowed_seconds(longest, room.properties, now)
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
            max_duration_seconds=longest,
            idle_timeout_seconds=agent.idle_timeout_seconds,
            queue_seconds=start.queue_seconds,
            created_at=now,
            traceparent=start.traceparent,
            owner=start.owner,
            room=None if room is None else asdict(room),
            room_state=None if room is None else "wanted",
        )
        if claim is not None:
            claim = replace(claim, client=prepared.client)
        placement, provider = self._fleet.first(agent.placements)
        machine = Machine(session.machine_id, session.id, provider, MachineState.requested, now)
        create_by, replica = deadlines.create_by(session, now), self._repository.replica
        admitted = transitions.wanted(machine, placement, provider, create_by, replica)
        try:
            added = await self._repository.add(
                session, machine, admitted, self._queue.limits, start.by, claim
            )
        except AlreadyClaimed as first:
            return await self._again(first.wanted, first.standing)
        except BaseException:
            # It may have been written all the same: a caller with a key comes back for it, others do not.
            if claim is None:
                self._terminator.close_unanswered(session, UNHEARD)
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
        try:
            place = await self._queue.place(written)
        except BaseException:
            if claim is None:
                self._terminator.close_unanswered(written, UNHEARD)
            raise
        needs_client = self._transports[transport_name].ready_needs_client
        return Started(written, prepared.client, True, place, claim is not None, needs_client)

    def _claim(self, start: Start, agent: str, session_id: str) -> Claim | None:
        """The hold that the request's key is to have on its session; None without a key."""
        if start.key is None:
            return None
        # A default leaves no trace, so that a release that knows of more has the same fingerprints.
        said = {name: value for name, value in asdict(start.wanted).items() if value != {}}
        request = [agent, start.transport, start.body, said]
        return idempotency.claim_of(start.owner, start.key, request, session_id, self._clock.now())

    async def _again(self, wanted: Claim, standing: Claim) -> Started:
        """Answer a request whose key stands for a session already, as it was answered the first time."""
        if wanted.fingerprint != standing.fingerprint:
            raise KeyReused("The Idempotency-Key was used before, for another request; use a new key.")
        session = await self._store.session(standing.session_id)
        if session is None:
            raise UnknownSession.of(standing.session_id)
        place = await self._queue.place(session)
        needs_client = self._transports[session.transport].ready_needs_client
        return Started(session, standing.client, False, place, True, needs_client)

    def _resolve(self, start: Start) -> tuple[str, AgentSettings, str]:
        name = start.agent or self._default_agent
        agent = self._agents.get(name)
        if agent is None:
            allowed = ", ".join(self._agents)
            raise UnknownAgent(f"There is no agent '{name}'; allowed: {allowed}.")
        transport = start.transport or agent.transports[0]
        if transport not in agent.transports:
            allowed = ", ".join(agent.transports)
            raise InvalidRequest(f"transport '{transport}' is not offered by {name}; allowed: {allowed}.")
        try:
            self._transports[transport].check(start.wanted, agent.daily_allowed_properties)
        except Unacceptable as refusal:
            raise InvalidRequest(str(refusal)) from refusal
        if not 0 <= start.queue_seconds <= agent.max_queue_seconds:
            given, most = f"{start.queue_seconds:g}", f"{agent.max_queue_seconds:g}"
            raise InvalidRequest(f"queue '{given}' is not allowed for {name}; allowed: 0 to {most} seconds.")
        return name, agent, transport

    def _check_delay(self, machine_id: str, agent: AgentSettings, accepted: float) -> None:
        """Refuse a start whose machine could not be asked for soon enough.

        Args:
            accepted: Seconds that its caller accepts to wait; more than the agent's own limit counts.

        Raises:
            NotStarted: the rates of the machines APIs let it wait for longer.
        """
        most = max(agent.max_start_delay_seconds, accepted)
        try:
            self._fleet.check_delay(machine_id, agent.placements, most)
        except Throttled as error:
            raise failures.no_machine(error) from error

    async def _prepare(self, session_id: str, agent: AgentSettings, transport: str, start: Start) -> Prepared:
        now, longest = self._clock.now(), start.queue_seconds + agent.max_duration_seconds
        until = now + longest + deadlines.DEADLINE_GRACE_SECONDS
        deadline = now + deadlines.START_SHARE * agent.start_timeout_seconds
        try:
            return await self._transports[transport].prepare(session_id, start.wanted, until, deadline)
        except RoomError as error:
            raise failures.no_room(error) from error

    def _at_capacity(self, name: str, agent: AgentSettings, start: Start) -> AtCapacity:
        limits = ["1 session" if agent.max_sessions == 1 else f"{agent.max_sessions} sessions"]
        if self._deployment_limit:
            limits.append(f"{self._deployment_limit} in the deployment")
        if start.queue_seconds > 0:
            limits.append(f"{agent.max_queued} in its queue")
        retry = f"Retry in {AtCapacity.retry_after:g} s, or raise max_sessions."
        return AtCapacity(f"Agent {name} is at capacity ({', '.join(limits)}). {retry}")
