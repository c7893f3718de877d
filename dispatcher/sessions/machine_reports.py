"""Messages of machines over their channels, and their meaning for sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from bot import versions
from bot.protocol import (
    Acknowledge,
    Assign,
    Assigned,
    ClientConnected,
    ClientDisconnected,
    Ended,
    FromDispatcher,
    FromMachine,
    Heartbeat,
    Hello,
    Latency,
    Phase,
    Ready,
    Response,
    RoomOpen,
    Stop,
    Timings,
    Welcome,
)
from dispatcher.clock import Clock
from dispatcher.domain import model, transitions
from dispatcher.domain.ends import end_at_exp
from dispatcher.domain.model import is_of_reserve
from dispatcher.domain.reserve import acknowledged
from dispatcher.domain.timeline import MACHINE
from dispatcher.log_context import about_session
from dispatcher.machines.channels import ChannelLost, Channels, Connection
from dispatcher.sessions.outage_retry import DurableBackground
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.reserve_reports import TOO_LATE, ReserveReports
from dispatcher.sessions.specs import assignment
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.database import is_outage
from dispatcher.store.store import Store

log = logging.getLogger(__name__)

MOST_WARNINGS = 100
"""About versions, of a dispatcher: they are what machines say of themselves, which must not fill the log."""

VERSIONS = ("pipecat", "python")
"""Those of a machine that are kept."""

MAX_VERSION_LENGTH = 32

WAITING_MESSAGES = 1000
"""Limit for one machine; a conversation says some three a minute. A machine that says more is not
read meanwhile."""

Work = Callable[[], Awaitable[None]]


class MachineReports:
    """Hears the machines.

    Args:
        on_lost: Called with the machine's id when its channel breaks: somebody should look after it soon.
    """

    def __init__(
        self,
        *,
        repository: Repository,
        terminator: Terminator,
        store: Store,
        channels: Channels,
        clock: Clock,
        background: DurableBackground,
        on_lost: Callable[[str], None],
    ) -> None:
        self._reserve = ReserveReports(
            repository=repository, terminator=terminator, store=store, channels=channels
        )
        self._repository = repository
        self._terminator = terminator
        self._store = store
        self._channels = channels
        self._clock = clock
        self._background = background
        self._backlog = _Backlog(background)
        self._on_lost = on_lost
        self._phases: dict[str, Phase] = {}
        """Machine → the phase that its last heartbeat wrote down, if it has said nothing else since."""
        self._warned: set[tuple[str, str]] = set()
        """Agents and versions of Pipecat that the log has a warning about."""
        self._kept_waiting: dict[str, asyncio.Task[None]] = {}
        """Machine → what tells it of its session's room once that is there."""

    async def connected(self, machine_id: str, hello: Hello, connection: Connection) -> None:
        """A machine said hello: learn what it runs, and tell it what it has to know."""
        await connection.send(Welcome(heartbeat_seconds=self._channels.heartbeat_seconds))
        if not await self._channels.attach(machine_id, connection, self._clock.monotonic(), hello.opened_at):
            return
        self._phases.pop(machine_id, None)
        now = self._clock.now()
        await self._backlog.add(machine_id, lambda: self._greet(machine_id, hello, connection, now))

    async def _greet(self, machine_id: str, hello: Hello, connection: Connection, now: float) -> None:
        session = await self._store.session_of_machine(machine_id)
        if is_of_reserve(machine_id) and await self._reserve.greeted(
            machine_id, hello, session, connection, now
        ):
            return
        if session is None:
            await _say(connection, Stop(message=TOO_LATE))
            return
        with about_session(session):
            self._warn(session.agent, hello.versions.get("pipecat", "")[:MAX_VERSION_LENGTH])
            await self._welcome_back(session, hello, connection, now)

    def _warn(self, agent: str, version: str) -> None:
        """Log once that an agent's machines have a version of Pipecat that was not tested."""
        warning = versions.untested(version)
        if not warning or (agent, version) in self._warned or len(self._warned) >= MOST_WARNINGS:
            return
        self._warned.add((agent, version))
        log.warning("agent %s: %s", agent, warning)

    async def _welcome_back(
        self, session: model.Session, hello: Hello, connection: Connection, now: float
    ) -> None:
        if is_of_reserve(session.machine_id):
            await self._welcome_assigned(session.machine_id, hello, connection, now)
            return
        await self._tell(session, hello.session_id, connection)
        await self._repository.change(
            session.id,
            lambda current: transitions.reported(current, hello.phase, _known(hello.timings), now),
            MACHINE,
            machine=lambda machine: replace(machine, versions=_bounded(hello.versions)),
        )

    async def _welcome_assigned(
        self, machine_id: str, hello: Hello, connection: Connection, now: float
    ) -> None:
        """Take the `hello` of a machine of the reserve that says it serves a session: first write, then tell.

        If the session has another machine by now, nothing is written.
        """
        session = await self._repository.change_of_machine(
            machine_id,
            lambda current: transitions.reported(current, hello.phase, _known(hello.timings), now),
            MACHINE,
            lambda machine: replace(acknowledged(machine), versions=_bounded(hello.versions)),
        )
        if session is None or session.id != hello.session_id:
            await _say(connection, Stop(message=TOO_LATE))
        else:
            await self._tell(session, hello.session_id, connection)

    async def _tell(self, session: model.Session, known: str | None, connection: Connection) -> None:
        """Tell a machine what it has to know of its session, now or once its room is there.

        Args:
            known: The session that the machine knows of.
        """
        self._wait_no_longer(session.machine_id)
        if _has_room(session):
            await _brief(session, known, connection)
        else:
            waiting = self._background.spawn(self._brief_later(session.id, known, connection))
            self._kept_waiting[session.machine_id] = waiting

    async def _brief_later(self, session_id: str, known: str | None, connection: Connection) -> None:
        """Tell a machine of its session once the room is there, whichever replica opens it.

        The session's own deadlines bound the wait: it moves on, or is over.
        """
        session = await self._background.persist(lambda: self._repository.until(session_id, _has_room))
        if session is not None:
            await _brief(session, known, connection)

    def _wait_no_longer(self, machine_id: str) -> None:
        if (waiting := self._kept_waiting.pop(machine_id, None)) is not None:
            waiting.cancel()

    def disconnected(self, machine_id: str, connection: Connection) -> None:
        """A machine's connection broke. What that means, the provider knows."""
        self._phases.pop(machine_id, None)
        if self._channels.detach(machine_id, connection):
            self._wait_no_longer(machine_id)
            self._terminator.said_goodbye(machine_id)
            self._on_lost(machine_id)

    async def heard(self, machine_id: str, message: FromMachine) -> None:
        """A machine said something."""
        now = self._clock.now()
        self._channels.heard(machine_id, self._clock.monotonic())
        if isinstance(message, Response):
            self._channels.answered(machine_id, message)
            return
        # Almost all that is ever heard: it must not cost a look into the store.
        if isinstance(message, Heartbeat) and self._phases.get(machine_id) == message.phase:
            return
        self._phases.pop(machine_id, None)
        await self._backlog.add(machine_id, lambda: self._write_down(machine_id, message, now))
        if isinstance(message, Assigned):
            await self._backlog.add(machine_id, lambda: self._begin(machine_id))
        if isinstance(message, Heartbeat):
            self._phases[machine_id] = message.phase

    async def _write_down(self, machine_id: str, message: FromMachine, now: float) -> None:
        if isinstance(message, Ended):
            # A stop that is under way need not wait for the store.
            self._terminator.said_goodbye(machine_id)
            # The write may have waited: the session ends at the moment in which it is written.
            now = self._clock.now()
        of_machine = None
        if is_of_reserve(machine_id):
            if await self._reserve.heard(machine_id, message, now):
                return
            of_machine = self._reserve.machine_change(message)
        session = await self._repository.change_of_machine(
            machine_id, lambda current: _change(current, message, now), MACHINE, of_machine
        )
        if session is None and is_of_reserve(machine_id):
            await self._reserve.heard_alone(machine_id, message)
        elif session is None:
            log.warning("machine %s has no session, and says %s", machine_id, message.type)
        elif isinstance(message, Ended):
            with about_session(session):
                self._terminator.reported_end(session)
                await self._channels.send(machine_id, Acknowledge())

    async def _begin(self, machine_id: str) -> None:
        """Let a machine of the reserve begin with its session, which is certainly its own by now."""
        session = await self._store.session_of_machine(machine_id)
        connection = self._channels.connection(machine_id)
        if session is not None and connection is not None:
            await self._tell(session, session.id, connection)


class _Backlog:
    """Reports that wait: handled in order, machine by machine, and kept while the store is away."""

    def __init__(self, background: DurableBackground) -> None:
        self._background = background
        self._waiting: dict[str, deque[Work]] = {}

    async def add(self, machine_id: str, work: Work) -> None:
        """Do it now; if the store does not answer, return and do it when it does, after what waits already.

        What it raises while nothing waits is the caller's; later it is logged.
        """
        if machine_id not in self._waiting:
            try:
                await work()
                return
            except SQLAlchemyError as error:
                if not is_outage(error):
                    raise
        while len(self._waiting.get(machine_id, ())) >= WAITING_MESSAGES:
            await self._background.until_back()
        if machine_id in self._waiting:
            self._waiting[machine_id].append(work)
        else:
            waiting = self._waiting[machine_id] = deque([work])
            self._background.spawn(self._catch_up(machine_id, waiting))

    async def _catch_up(self, machine_id: str, waiting: deque[Work]) -> None:
        try:
            while waiting:
                try:
                    await self._background.persist(waiting[0])
                except Exception:
                    log.exception("machine %s: what it said could not be written down", machine_id)
                waiting.popleft()
        finally:
            del self._waiting[machine_id]


def _has_room(session: model.Session) -> bool:
    """Return True if there is nothing to wait for: its room is there, or it needs none any more."""
    return session.over or session.room_state != "wanted"


async def _brief(session: model.Session, known: str | None, connection: Connection) -> None:
    """Tell a machine what it has to know of its session, which needs no room or has it."""
    if session.over:
        await _say(connection, Stop(message=session.message or "The session is over."))
    elif known is None:
        await _say(connection, Assign(assignment=assignment(session)))
    elif session.room is not None or is_of_reserve(session.machine_id):
        await _say(connection, RoomOpen())


async def _say(connection: Connection, message: FromDispatcher) -> None:
    """Tell a machine; one whose connection broke asks again with its next hello."""
    with contextlib.suppress(ChannelLost):
        await connection.send(message)


def _bounded(reported: dict[str, str]) -> dict[str, str]:
    """Return the versions that are kept: a machine may name as many, and as long ones, as a frame takes."""
    return {name: reported[name][:MAX_VERSION_LENGTH] for name in VERSIONS if name in reported}


def _known(timings: Timings) -> dict[str, float]:
    return timings.model_dump(exclude_none=True)


def _change(session: model.Session, message: FromMachine, now: float) -> model.Session:
    match message:
        case Heartbeat():
            return transitions.reported(session, message.phase, None, now)
        case Assigned():
            return transitions.started(session, now)
        case Ready():
            return transitions.reported(session, "ready", _known(message.timings), now)
        case ClientConnected():
            return transitions.reported(session, "active", _known(message.timings), now)
        case Latency(kind="first_word"):
            return transitions.first_word(session, message.milliseconds)
        case Latency(kind="turn"):
            return transitions.turn(session, message.milliseconds, now)
        case ClientDisconnected():  # the client may come back
            return transitions.client_left(session, now)
        case Ended():
            said = model.End(message.reason, message.message, message.detail or None, message.exit_code)
            return transitions.over(session, end_at_exp(session, said, now), now)
        case _:  # the rest was dealt with before
            return session
