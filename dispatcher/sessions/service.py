"""Runs sessions: starts them, passes calls to their bots, hears what their machines report, ends them.

The row comes first, then the machine. What a client waits for is a change of the row, so it makes no
difference who caused it: the provider, the machine's channel, the reaper or a restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

from bot.protocol import (
    MACHINE_TOKEN_VARIABLE,
    MAX_ARGUMENT_BODY_BYTES,
    TRACEPARENT_VARIABLE,
    Assignment,
    IceServer,
    Request,
    Response,
    Stop,
    entrypoint_arguments,
)
from dispatcher.clock import Clock
from dispatcher.machines.channels import Channels
from dispatcher.machines.failover import Faulty
from dispatcher.machines.fleet import Fleet, NoMachine, NotWanted, Place
from dispatcher.machines.provider import (
    MachineSpec,
    MachineState,
    MachineStatus,
    NoCapacity,
    Preparation,
    ProviderError,
    QuotaReached,
    Throttled,
    Unreachable,
)
from dispatcher.machines.tokens import MachineTokens
from dispatcher.sessions import idempotency, lifecycle
from dispatcher.sessions.changes import Changes
from dispatcher.sessions.errors import (
    AtCapacity,
    InvalidRequest,
    KeyReused,
    NotStarted,
    Restarting,
    SessionOver,
    StartFailed,
    TookTooLong,
    UnknownAgent,
    UnknownSession,
)
from dispatcher.sessions.idempotency import AlreadyClaimed, Claim
from dispatcher.sessions.lifecycle import End, Machine, Session, SessionState
from dispatcher.sessions.timeline import DISPATCHER, PROVIDER, Cause
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store.store import Store
from dispatcher.tasks import end_tasks
from dispatcher.telemetry.context import about
from dispatcher.transports.transport import Transport, Wanted

log = logging.getLogger(__name__)

Wait = Literal["none", "started", "ready"]

START_SHARE = 0.9
"""The part of the start timeout in which a machine must be had: one that came later had no time to get ready,
and what the placements said is told before the timeout, which knows less, closes the session."""

RETRY_HELPS = ("no_capacity", "quota_reached", "throttled", "unreachable")
"""The reasons for having no machine that may be gone in a moment."""

STOP_GRACE = timedelta(seconds=5)
"""What a bot gets to say goodbye, from the stop message to the signal; and then again to the kill."""


@dataclass(frozen=True, slots=True)
class Start:
    """A start request, validated in form only."""

    agent: str | None = None
    transport: str | None = None
    body: Any = None
    wanted: Wanted = field(default_factory=Wanted)
    wait: Wait = "ready"
    by: str = "its client"
    """Who asks, for the timeline."""
    key: str | None = None
    """The `Idempotency-Key`."""
    scope: str = ""
    """Whose key it is: the same key of another caller is another key."""
    traceparent: str | None = None
    """The trace context of the request."""


@dataclass(frozen=True, slots=True)
class Started:
    """A session that was started, and what its client needs to join."""

    session: Session
    client: Mapping[str, Any]


class SessionService:
    """The sessions of this deployment.

    Args:
        environment: Looks up the variables that agents name in `env`; the dispatcher's own environment.
        dispatcher_url: Where the machines find the dispatcher.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        fleet: Fleet,
        transports: Mapping[str, Transport],
        channels: Channels,
        tokens: MachineTokens,
        clock: Clock,
        environment: Mapping[str, str],
        dispatcher_url: str,
        observers: Sequence[Callable[[Session | None, Session], None]] = (),
    ) -> None:
        self._settings = settings
        self._store = store
        self._fleet = fleet
        self._transports = transports
        self._channels = channels
        self._tokens = tokens
        self._clock = clock
        self._environment = environment
        self._dispatcher_url = dispatcher_url
        self._observers = observers
        self._changes = Changes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._releases: dict[str, asyncio.Task[None]] = {}
        self._drained = asyncio.Event()

    @property
    def agents(self) -> Mapping[str, AgentSettings]:
        return self._settings.agents

    @property
    def default_agent(self) -> str:
        return self._settings.default_agent or next(iter(self._settings.agents))

    @property
    def changes(self) -> Changes:
        """Who waits for sessions to change."""
        return self._changes

    @property
    def draining(self) -> bool:
        """Whether new starts are refused because the dispatcher is about to exit."""
        return self._drained.is_set()

    async def start(self, start: Start) -> Started:
        """Start a session and wait for it as long as `start.wait` says.

        Raises:
            SessionError: the session could not be started; nothing is left running.
        """
        if self._drained.is_set():
            raise Restarting()
        name, agent, transport_name = self._resolve(start)
        transport = self._transports[transport_name]
        # The client of such a transport can only act once it has the answer.
        wait: Wait = "started" if start.wait == "ready" and transport.ready_needs_client else start.wait
        session_id = str(uuid.uuid4())
        claim = self._claim(start, name, session_id)
        if claim is not None and (known := await self._store.claim(claim.id, self._clock.now())):
            return await self._again(claim, known, wait, agent)
        opened = await transport.open(session_id, start.wanted)
        now = self._clock.now()
        placement, provider = self._fleet.first(agent.placements)
        machine = Machine(
            f"m-{session_id}",
            session_id,
            provider,
            MachineState.requested,
            now,
            placement=placement,
            create_by=now + START_SHARE * agent.start_timeout_seconds,
        )
        session = Session(
            id=session_id,
            agent=name,
            transport=transport_name,
            body=start.body,
            ice_servers=list(opened.ice_servers),
            machine_id=machine.id,
            state=SessionState.queued,
            start_timeout_seconds=agent.start_timeout_seconds,
            client_timeout_seconds=agent.client_timeout_seconds,
            max_duration_seconds=agent.max_duration_seconds,
            created_at=now,
            traceparent=start.traceparent,
        )
        if claim is not None:
            claim = replace(claim, client=opened.client)
        try:
            added = await self._store.add(session, machine, agent.max_sessions, start.by, claim)
        except AlreadyClaimed as first:
            return await self._again(first.wanted, first.standing, wait, agent)
        if not added:
            limit = "1 session" if agent.max_sessions == 1 else f"{agent.max_sessions} sessions"
            raise AtCapacity(f"All lines are busy: {name} takes {limit} at a time. Please try again later.")
        for observe in self._observers:
            observe(None, session)
        log.info("session %s of %s: machine %s is asked for", session.id, name, machine.id)
        with about(session_id=session.id, machine_id=machine.id, traceparent=session.traceparent):
            self._spawn(self._launch(session, machine, agent))
        return Started(await self._wait_for(session, wait, agent), opened.client)

    async def get(self, session_id: str, agent: str | None = None) -> Session:
        """A session, which must be of that agent if one is named."""
        session = await self._store.session(session_id)
        if session is None or agent not in (None, session.agent):
            of_agent = f" of {agent}" if agent else ""
            raise UnknownSession(f"There is no session {session_id}{of_agent}.")
        return session

    async def stop(self, session_id: str, by: str, agent: str | None = None) -> Session:
        """End a session. Ending one that is over is fine, and changes nothing."""
        session = await self.get(session_id, agent)
        await self.close(session, End("stopped", f"The session was stopped by {by}."), by)
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
            raise SessionOver(_over_in_words(session))
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
                raise StartFailed(_over_in_words(end.result()))
            if exit_.done():
                raise Restarting()
            raise TookTooLong(f"The bot did not answer within {self._settings.call_timeout_seconds:g} s.")
        finally:
            await end_tasks(*waiting)

    async def _call_timer(self, session_id: str) -> None:
        """A session that starts is held by its own deadlines; one that runs owes a prompt answer."""
        await self._until(session_id, lambda session: session.over or session.ready_at is not None)
        await self._clock.sleep(self._settings.call_timeout_seconds)

    async def change(
        self, session_id: str, change: Callable[[Session], Session], by: str = DISPATCHER
    ) -> Session | None:
        """Apply a change of the lifecycle and tell who waits. None if there is no such session.

        Args:
            by: Who causes the change, for the timeline.
        """
        updated = await self._store.update_session(session_id, change, Cause(by, self._clock.now()))
        if updated is None:
            return None
        before, after = updated
        if before != after:
            self._changes.notify(session_id)
            for observe in self._observers:
                observe(before, after)
            if before.state is not after.state:
                why = f": {after.message}" if after.message else ""
                level = logging.WARNING if after.state is SessionState.failed else logging.INFO
                log.log(level, "session %s: %s → %s%s", session_id, before.state, after.state, why)
        return after

    async def close(self, session: Session, end: End, by: str = DISPATCHER) -> None:
        """Close the session's row with this reason, if it is still open, and let its machine go."""
        now = self._clock.now()
        await self.change(session.id, lambda current: lifecycle.over(current, end, now), by)
        self.let_go(session.machine_id, end.message)

    def let_go(self, machine_id: str, why: str) -> None:
        """Release a machine in the background, unless that is under way."""
        if machine_id not in self._releases:
            release = self._spawn(self.release(machine_id, why))
            self._releases[machine_id] = release
            release.add_done_callback(lambda _: self._releases.pop(machine_id, None))

    async def release(self, machine_id: str, why: str, placement: str | None = None) -> None:
        """End a machine: ask its bot, then the provider, and write down that it is gone.

        Args:
            placement: Where it is; by default where its row says.
        """
        if placement is None:
            machine = await self._store.machine(machine_id)
            placement = machine.placement if machine is not None else None
        if await self._channels.send(machine_id, Stop(message=why)):
            await self._until_gone(placement, machine_id, STOP_GRACE)
        await self._fleet.stop(placement, machine_id, STOP_GRACE)
        await self.note_if_gone(machine_id)

    async def note_if_gone(self, machine_id: str) -> bool:
        """Ask the provider; if the machine is certainly gone, write that down. True if it is."""
        machine = await self._store.machine(machine_id)
        if machine is None or machine.state is MachineState.gone:
            return True
        asked = self._clock.now()
        status = await self._fleet.get(machine.placement, machine_id)
        if status is None:
            session = await self._store.session_of_machine(machine_id)
            settling = self._fleet.settling(machine.placement)
            if not lifecycle.absence_counts(machine, session, settling, asked):
                return False
        elif status.state is not MachineState.gone:
            return False
        await self._machine_gone(machine_id, status)
        return True

    async def _machine_gone(self, machine_id: str, status: MachineStatus | None) -> None:
        now = self._clock.now()
        updated = await self._store.update_machine(
            machine_id, lambda machine: lifecycle.machine_gone(machine, status, now), Cause(PROVIDER, now)
        )
        if status is not None and updated is not None and (session_id := updated[1].session_id):
            await self.change(session_id, lambda session: lifecycle.exited(session, status.exit_code))

    def assignment(self, session: Session) -> Assignment:
        """What the session's machine is told."""
        return Assignment(
            session_id=session.id,
            agent=session.agent,
            transport=session.transport,
            body=session.body,
            ice_servers=tuple(IceServer.model_validate(server) for server in session.ice_servers),
            max_duration_seconds=session.max_duration_seconds,
            traceparent=session.traceparent,
        )

    async def settle(self) -> None:
        """Let everything finish that is under way: machines that are created, and machines that end."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def refuse(self) -> None:
        """Take no new starts, and send held calls away with a retry: the dispatcher is about to exit."""
        self._drained.set()

    async def drain(self) -> None:
        """Take no new starts, and let those in flight finish. Live calls are untouched.

        Machines that are about to end are left to themselves and to the next dispatcher's reaper: their bots
        may be waiting for an acknowledgement that this one's channels no longer carry.
        """
        self.refuse()
        for release in list(self._releases.values()):
            release.cancel()
        await self.settle()

    def _claim(self, start: Start, agent: str, session_id: str) -> Claim | None:
        """The hold that the request's key is to have on its session; None without a key."""
        if start.key is None:
            return None
        request = [agent, start.transport, start.body, asdict(start.wanted)]
        return Claim(
            id=idempotency.claim_id(start.scope, start.key),
            fingerprint=idempotency.fingerprint(request),
            session_id=session_id,
            client={},
            expires_at=self._clock.now() + idempotency.KEPT_SECONDS,
        )

    async def _again(self, wanted: Claim, standing: Claim, wait: Wait, agent: AgentSettings) -> Started:
        """Answer a request whose key stands for a session already, as it was answered the first time."""
        if wanted.fingerprint != standing.fingerprint:
            raise KeyReused("The Idempotency-Key was used before, for another request; use a new key.")
        session = await self.get(standing.session_id)
        return Started(await self._wait_for(session, wait, agent), standing.client)

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
        return name, agent, transport

    async def _launch(self, session: Session, machine: Machine, agent: AgentSettings) -> None:
        """Ask the fleet for the session's machine, and write down what came of it."""
        deadline = session.created_at + START_SHARE * agent.start_timeout_seconds
        place = self._places(session, machine)
        try:
            asked = self._clock.now()
            await self.change(session.id, lambda current: lifecycle.launched(current, asked))
            spec = self._spec(session, agent)
            status = await self._fleet.create(spec, agent.placements, deadline, place)
        except NotWanted:
            await self._machine_gone(machine.id, None)
            return
        except NoMachine as none:
            log.exception("session %s: no machine", session.id)
            end = _end_by_provider(none.error)
            if not none.nowhere:
                await self.close(session, end, PROVIDER)
                return
            now = self._clock.now()
            await self.change(session.id, lambda current: lifecycle.over(current, end, now), PROVIDER)
            await self._machine_gone(machine.id, None)
            return
        except Exception as error:
            log.exception("session %s: no machine", session.id)
            message = "The dispatcher could not ask for a machine; its log says why."
            await self.close(session, End("internal_error", message, f"{type(error).__name__}: {error}"))
            return
        if status.state is MachineState.requested:
            return
        now = self._clock.now()
        await self._store.update_machine(session.machine_id, lifecycle.machine_started, Cause(PROVIDER, now))
        after = await self.change(session.id, lambda current: lifecycle.started(current, now), PROVIDER)
        if after is None or after.over:
            # Stopped while the machine was being created: whoever stopped it found no machine to end.
            await self.release(session.machine_id, "The session was stopped before its machine started.")

    def preparations(self, placement: str) -> list[Preparation]:
        """What the machines of each agent have in common, for a placement that can get ready for them."""
        return [
            Preparation(str(agent.bot), self._common_environment(agent))
            for agent in self.agents.values()
            if not agent.placements or placement in agent.placements
        ]

    def _common_environment(self, agent: AgentSettings) -> dict[str, str]:
        named = {name: self._environment[name] for name in agent.env if name in self._environment}
        return {**named, "SWITCHBOARD_LOG_LEVEL": self._settings.log_level}

    def _places(self, session: Session, machine: Machine) -> Place:
        """Moves the machine's row from placement to placement, as long as its session wants a machine."""
        at = machine.placement

        async def place(placement: str, provider: str) -> bool:
            nonlocal at
            if (await self.get(session.id)).over:
                return False
            if placement == at:
                return True
            updated = await self._store.update_machine(
                machine.id,
                lambda current: lifecycle.placed(current, placement, provider),
                Cause(DISPATCHER, self._clock.now()),
            )
            at = placement
            return updated is not None and updated[1].placement == placement

        return place

    def _spec(self, session: Session, agent: AgentSettings) -> MachineSpec:
        assignment = self.assignment(session)
        in_arguments = len(json.dumps(session.body).encode()) <= MAX_ARGUMENT_BODY_BYTES
        token = self._tokens.issue(session.machine_id, agent.max_duration_seconds)
        of_machine = {MACHINE_TOKEN_VARIABLE: token}
        if session.traceparent is not None:
            of_machine[TRACEPARENT_VARIABLE] = session.traceparent
        return MachineSpec(
            id=session.machine_id,
            image=str(agent.bot),
            arguments=tuple(
                entrypoint_arguments(
                    session.machine_id, self._dispatcher_url, assignment if in_arguments else None
                )
            ),
            environment={**self._common_environment(agent), **of_machine},
            cpu=agent.cpu,
            memory_mb=agent.memory_mb,
            max_duration=timedelta(seconds=agent.max_duration_seconds),
        )

    async def _wait_for(self, session: Session, wait: Wait, agent: AgentSettings) -> Session:
        """Hold a start answer. The session's own deadlines end the wait: every session moves on or fails."""
        if wait == "none":
            return session
        reached = {
            "started": lambda current: current.over or current.started_at is not None,
            "ready": lambda current: current.over or current.ready_at is not None,
        }
        after = await self._until(session.id, reached[wait])
        if after.state is SessionState.failed:
            error = NotStarted if after.reason in RETRY_HELPS else StartFailed
            raise error(_over_in_words(after), code=after.reason)
        return after

    async def _until(self, session_id: str, reached: Callable[[Session], bool]) -> Session:
        session = await self._changes.until(session_id, self._store.session, reached)
        if session is None:
            raise UnknownSession(f"There is no session {session_id}.")
        return session

    async def _until_gone(self, placement: str | None, machine_id: str, within: timedelta) -> None:
        deadline = self._clock.now() + within.total_seconds()
        while self._clock.now() < deadline:
            status = await self._fleet.get(placement, machine_id)
            if status is None or status.state is MachineState.gone:
                return
            await self._clock.sleep(0.1)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The reaper comes back to whatever this was about.
            log.error("a background task failed", exc_info=error)


def _end_by_provider(error: ProviderError) -> End:
    match error:
        case NoCapacity():
            return End("no_capacity", "No machine is free for this session right now.", str(error))
        case QuotaReached():
            return End("quota_reached", "This deployment has all the machines that it may have.", str(error))
        case Throttled():
            return End("throttled", "The machines API is taking no more calls right now.", str(error))
        case Faulty():
            return End(
                "internal_error", "The dispatcher failed to ask for a machine; its log says why.", str(error)
            )
        case Unreachable():
            return End("unreachable", "The machines API did not answer.", str(error))
        case _:
            return End("rejected", f"The machine could not be created: {error}.", str(error))


def _over_in_words(session: Session) -> str:
    return session.message or f"The session is {session.state}."
