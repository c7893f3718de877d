"""Messages of machines of the reserve: while they wait, and as they begin with a session."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from bot.protocol import (
    RESERVE_SINCE,
    Acknowledge,
    Assign,
    Assigned,
    ClientConnected,
    Ended,
    FromMachine,
    Heartbeat,
    Hello,
    Ready,
    Stop,
)
from dispatcher.domain import reserve
from dispatcher.domain.model import Machine, Session
from dispatcher.domain.timeline import MACHINE
from dispatcher.machines.channels import ChannelLost, Channels, Connection
from dispatcher.sessions.repository import Repository
from dispatcher.sessions.specs import assignment
from dispatcher.sessions.terminator import Terminator
from dispatcher.store.store import Store

log = logging.getLogger(__name__)

TOO_LATE = "No session of this deployment runs on this machine."

_BEGINS = (Assigned, Ready, ClientConnected)


class ReserveReports:
    """Hears machines of the reserve that serve no session yet."""

    def __init__(
        self, *, repository: Repository, terminator: Terminator, store: Store, channels: Channels
    ) -> None:
        self._repository = repository
        self._terminator = terminator
        self._store = store
        self._channels = channels

    async def greeted(
        self, machine_id: str, hello: Hello, session: Session | None, connection: Connection, now: float
    ) -> bool:
        """Take a `hello` of a machine that has no session by its own word. False if it has one.

        Args:
            session: The session that its row names.
        """
        if hello.session_id is not None:
            return False
        if session is not None and not session.over:
            # Claimed while it was away, or by a replica that died before it could say so.
            with contextlib.suppress(ChannelLost):
                await connection.send(Assign(assignment=assignment(session)))
            return True
        if (
            session is None
            and hello.protocol >= RESERVE_SINCE
            and await self._waits(machine_id, hello.phase, now)
        ):
            return True
        if hello.protocol < RESERVE_SINCE:
            log.warning(
                "machine %s: its image is older than the reserve (protocol %d; allowed: %d or later)",
                machine_id, hello.protocol, RESERVE_SINCE,
            )  # fmt: skip
            await self._retire(machine_id, "Its image is too old for the reserve.")
        with contextlib.suppress(ChannelLost):
            await connection.send(Stop(message=TOO_LATE))
        return True

    async def heard(self, machine_id: str, message: FromMachine, now: float) -> bool:
        """Take what a machine says before it begins with a session. False if it says more than that."""
        if isinstance(message, Heartbeat) and message.phase in reserve.UNASSIGNED:
            if message.phase == "idle":
                await self._waits(machine_id, message.phase, now)
            return True
        return False

    async def heard_alone(self, machine_id: str, message: FromMachine) -> None:
        """Take what a machine says that has no session: its last word, or one that comes too late."""
        if isinstance(message, Ended):
            log.log(
                logging.INFO if message.reason == "stopped" else logging.WARNING,
                "machine %s of the reserve ended (%s): %s", machine_id, message.reason, message.message,
            )  # fmt: skip
            await self._retire(machine_id, message.message)
            await self._channels.send(machine_id, Acknowledge())
        elif isinstance(message, (*_BEGINS, Heartbeat)):
            log.warning("machine %s: it begins with a session that has another machine", machine_id)
            await self._channels.send(machine_id, Stop(message="Another machine serves the session."))

    def machine_change(self, message: FromMachine) -> Callable[[Machine], Machine] | None:
        """Return what becomes of the machine by a message about its session."""
        begins = isinstance(message, (*_BEGINS, Heartbeat))
        return reserve.acknowledged if begins else None

    async def _waits(self, machine_id: str, phase: str, now: float) -> bool:
        """Write down that a machine waits, if it is ready for a session. False if it is not of the reserve
        any more."""
        if phase != "idle":
            machine = await self._store.machine(machine_id)
        else:
            machine = await self._repository.change_machine(
                machine_id, lambda current: reserve.waits(current, now), MACHINE
            )
        return machine is not None and reserve.is_waiting(machine)

    async def _retire(self, machine_id: str, why: str) -> None:
        await self._repository.change_machine(machine_id, reserve.retired, MACHINE)
        self._terminator.terminate_later(machine_id, why)
