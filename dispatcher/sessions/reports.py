"""What the machines say over their channels, and what it means for their sessions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace

from bot.protocol import (
    Acknowledge,
    Assign,
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
    Stop,
    Welcome,
)
from dispatcher.clock import Clock
from dispatcher.machines.channels import ChannelLost, Channels, Connection
from dispatcher.sessions import lifecycle
from dispatcher.sessions.ledger import Ledger
from dispatcher.sessions.patience import Backlog
from dispatcher.sessions.releases import Releases
from dispatcher.sessions.specs import assignment
from dispatcher.sessions.timeline import MACHINE
from dispatcher.store.store import Store
from dispatcher.telemetry.context import about_session

log = logging.getLogger(__name__)


class Reports:
    """Hears the machines.

    Args:
        on_lost: Called with the machine's id when its channel breaks: somebody should look after it soon.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        releases: Releases,
        store: Store,
        channels: Channels,
        clock: Clock,
        backlog: Backlog,
        heartbeat_seconds: float,
        on_lost: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._releases = releases
        self._store = store
        self._channels = channels
        self._clock = clock
        self._backlog = backlog
        self._heartbeat_seconds = heartbeat_seconds
        self._on_lost = on_lost
        self._phases: dict[str, Phase] = {}
        """Machine → the phase that its last heartbeat wrote down, if it has said nothing else since."""

    async def connected(self, machine_id: str, hello: Hello, connection: Connection) -> None:
        """A machine said hello: learn what it runs, and tell it what it has to know."""
        await connection.send(Welcome(heartbeat_seconds=self._heartbeat_seconds))
        if not await self._channels.attach(machine_id, connection, self._clock.now(), hello.opened_at):
            return
        self._phases.pop(machine_id, None)
        now = self._clock.now()
        await self._backlog.add(machine_id, lambda: self._greet(machine_id, hello, connection, now))

    async def _greet(self, machine_id: str, hello: Hello, connection: Connection, now: float) -> None:
        session = await self._store.session_of_machine(machine_id)
        if session is None:
            await _say(connection, Stop(message="No session of this deployment runs on this machine."))
            return
        with about_session(session):
            await self._welcome_back(session, hello, connection, now)

    async def _welcome_back(
        self, session: lifecycle.Session, hello: Hello, connection: Connection, now: float
    ) -> None:
        if session.over:
            await _say(connection, Stop(message=session.message or "The session is over."))
        elif hello.session_id is None:
            await _say(connection, Assign(assignment=assignment(session)))
        await self._ledger.change(
            session.id,
            lambda current: lifecycle.reported(current, hello.phase, hello.timings, now),
            MACHINE,
            machine=lambda machine: replace(machine, versions=hello.versions),
        )

    def disconnected(self, machine_id: str, connection: Connection) -> None:
        """A machine's connection broke. What that means, the provider knows."""
        self._phases.pop(machine_id, None)
        if self._channels.detach(machine_id, connection):
            self._releases.said_goodbye(machine_id)
            self._on_lost(machine_id)

    async def heard(self, machine_id: str, message: FromMachine) -> None:
        """A machine said something."""
        now = self._clock.now()
        self._channels.heard(machine_id, now)
        if isinstance(message, Response):
            self._channels.answered(machine_id, message)
            return
        # Almost all that is ever heard: it must not cost a look into the store.
        if isinstance(message, Heartbeat) and self._phases.get(machine_id) == message.phase:
            return
        self._phases.pop(machine_id, None)
        await self._backlog.add(machine_id, lambda: self._write_down(machine_id, message, now))
        if isinstance(message, Heartbeat):
            self._phases[machine_id] = message.phase

    async def _write_down(self, machine_id: str, message: FromMachine, now: float) -> None:
        session = await self._store.session_of_machine(machine_id)
        if session is None:
            log.warning("machine %s has no session, and says %s", machine_id, message.type)
            return
        with about_session(session):
            if isinstance(message, Ended):
                await self._ended(session, message)
                return
            await self._ledger.change(session.id, lambda current: _change(current, message, now), MACHINE)

    async def _ended(self, session: lifecycle.Session, message: Ended) -> None:
        await self._releases.close_by_report(session, lifecycle.end_by_report(message))
        await self._channels.send(session.machine_id, Acknowledge())


async def _say(connection: Connection, message: FromDispatcher) -> None:
    """Tell a machine; one whose connection broke asks again with its next hello."""
    with contextlib.suppress(ChannelLost):
        await connection.send(message)


def _change(session: lifecycle.Session, message: FromMachine, now: float) -> lifecycle.Session:
    match message:
        case Heartbeat():
            return lifecycle.reported(session, message.phase, None, now)
        case Ready():
            return lifecycle.reported(session, "ready", message.timings, now)
        case ClientConnected():
            return lifecycle.reported(session, "active", message.timings, now)
        case Latency(kind="first_word"):
            return lifecycle.first_word(session, message.milliseconds)
        case Latency(kind="turn"):
            return lifecycle.turn(session, message.milliseconds, now)
        case ClientDisconnected():  # the client may come back
            return lifecycle.client_left(session, now)
        case _:  # the rest was dealt with before
            return session
