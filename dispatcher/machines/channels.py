"""The dispatcher's end of the channels: one live connection per machine, and calls over it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bot.protocol import FromDispatcher, Request, Response
from dispatcher.bus import Bus
from dispatcher.clock import Clock
from dispatcher.machines.relay import Relay
from dispatcher.tasks import end_tasks, loop

REPLACED = "another connection of this machine took its place"


class ChannelLost(Exception):
    """The machine's connection broke before the message was sent."""


class Connection(Protocol):
    """One connection of a machine."""

    async def send(self, message: FromDispatcher) -> None:
        """Send a message.

        Raises:
            ChannelLost: the connection broke first.
        """
        ...

    async def close(self, reason: str) -> None:
        """Close the connection. Idempotent."""
        ...


@dataclass
class _Call:
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there is an answer, and when the request should go out (again)."""
    answer: Response | None = None


@dataclass
class _Machine:
    connection: Connection | None = None
    opened_at: float = 0.0
    last_heard: float = 0.0
    calls: dict[str, _Call] = field(default_factory=dict)


class Channels:
    """The connections of machines, at this replica or another, and the calls over them.

    A call outlives its connection: its request is sent again over the machine's next one, at whichever
    replica, and the machine runs it once.

    Args:
        heartbeat_seconds: Interval of machines' heartbeats, and of replicas' signs of life.
        on_lost: Called when another replica has vanished.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        heartbeat_seconds: float,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self._bus = bus
        self._clock = clock
        self._machines: dict[str, _Machine] = {}
        self._relay = Relay(bus, clock, self, heartbeat_seconds, on_lost)
        self._relaying: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> int:
        """Number of machines that are connected to this replica."""
        return sum(machine.connection is not None for machine in self._machines.values())

    @property
    def hears_all(self) -> bool:
        """True if this replica hears about machines at other replicas."""
        return self._bus.stands

    def open(self) -> None:
        """Begin to exchange signs of life with other replicas."""
        self._relaying = loop(self._relay.run())

    async def close(self) -> None:
        await end_tasks(*self._closing, *([self._relaying] if self._relaying is not None else []))

    async def attach(
        self, machine_id: str, connection: Connection, now: float, opened_at: float = 0.0
    ) -> bool:
        """Register a machine's connection; it replaces an earlier one, which is closed.

        False if this one is the earlier of two that arrived in the wrong order; it is closed then.

        Args:
            opened_at: The machine's own time of opening it (`Hello.opened_at`).
        """
        machine = self._machines.get(machine_id)
        here = machine.opened_at if machine is not None and machine.connection is not None else None
        if opened_at < max(here or 0.0, self._relay.opened_at(machine_id) or 0.0):
            await connection.close(REPLACED)
            return False
        machine = self._machines.setdefault(machine_id, _Machine())
        replaced, machine.connection = machine.connection, connection
        machine.opened_at, machine.last_heard = opened_at, now
        self._relay.attached(machine_id, opened_at)
        self._reachable(machine)
        if replaced is not None:
            self._close_later(replaced)
        return True

    def detach(self, machine_id: str, connection: Connection) -> bool:
        """Remove that connection. Return False if another has replaced it already."""
        machine = self._machines.get(machine_id)
        if machine is None or machine.connection is not connection:
            return False
        machine.connection = None
        self._relay.detached(machine_id, machine.opened_at)
        self._tidy(machine_id)
        return True

    def connection(self, machine_id: str) -> Connection | None:
        """Return the machine's connection to this replica."""
        machine = self._machines.get(machine_id)
        return machine.connection if machine is not None else None

    def heard(self, machine_id: str, now: float) -> None:
        """Record that the machine sent something."""
        if machine := self._machines.get(machine_id):
            machine.last_heard = now

    def last_heard(self, machine_id: str) -> float | None:
        """Return when a connected machine last sent something, by the monotonic clock; None if it is not
        connected.

        For a machine at another replica the time may be too late by up to two and a half heartbeats.
        """
        machine = self._machines.get(machine_id)
        if machine is not None and machine.connection is not None:
            return machine.last_heard
        return self._relay.last_heard(machine_id)

    async def send(self, machine_id: str, message: FromDispatcher) -> bool:
        """Send to a machine. Return False if it is not connected, or its connection broke."""
        machine = self._machines.get(machine_id)
        if machine is not None and machine.connection is not None:
            return await self.deliver(machine_id, message)
        return await self._relay.send(machine_id, message)

    async def call(self, machine_id: str, request: Request) -> Response:
        """Send a request as soon as the machine is connected, and wait for the answer as long as it takes.

        The caller bounds the wait by cancelling.
        """
        # The id contains the asking replica, so that the answer finds it from any replica.
        request = request.model_copy(update={"id": f"{self._bus.replica}.{request.id}"})
        machine = self._machines.setdefault(machine_id, _Machine())
        call = machine.calls[request.id] = _Call()
        try:
            while call.answer is None:
                call.news.clear()
                if machine.connection is not None:
                    await self.deliver(machine_id, request)
                else:
                    self._relay.request(machine_id, request)
                await call.news.wait()
            return call.answer
        finally:
            del machine.calls[request.id]
            self._tidy(machine_id)

    def answered(self, machine_id: str, response: Response) -> None:
        """Take a machine's answer to a call. An answer to a call that has ended is dropped."""
        asker = response.id.partition(".")[0]
        if asker != self._bus.replica:
            self._relay.answer(asker, machine_id, response)
            return
        machine = self._machines.get(machine_id)
        call = machine.calls.get(response.id) if machine is not None else None
        if call is not None and call.answer is None:
            call.answer = response
            call.news.set()

    # The relay's view of this replica's channels (`Holder`).

    def held(self) -> dict[str, float]:
        """Machine → the time when it opened its connection to this replica."""
        return {
            machine_id: machine.opened_at
            for machine_id, machine in self._machines.items()
            if machine.connection is not None
        }

    def quiet(self, seconds: float) -> dict[str, float]:
        """Return machine → seconds since its last message here, for those over the limit."""
        now = self._clock.monotonic()
        return {
            machine_id: now - machine.last_heard
            for machine_id, machine in self._machines.items()
            if machine.connection is not None and now - machine.last_heard > seconds
        }

    def elsewhere(self, machine_id: str, opened_at: float) -> bool:
        """Take note that another replica holds the machine. Return False if the connection here is later."""
        machine = self._machines.get(machine_id)
        if machine is None:
            return True
        if machine.connection is not None:
            if machine.opened_at > opened_at:
                return False
            replaced, machine.connection = machine.connection, None
            self._close_later(replaced)
        self._reachable(machine)
        self._tidy(machine_id)
        return True

    async def deliver(self, machine_id: str, message: FromDispatcher) -> bool:
        """Send over the connection at this replica. Return False if there is none, or it broke."""
        machine = self._machines.get(machine_id)
        if machine is None or machine.connection is None:
            return False
        try:
            await machine.connection.send(message)
        except ChannelLost:
            return False
        return True

    def _close_later(self, replaced: Connection) -> None:
        """Close a connection in the background: its peer may not read any more."""
        closing = asyncio.create_task(replaced.close(REPLACED))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _reachable(self, machine: _Machine) -> None:
        for call in machine.calls.values():
            call.news.set()

    def _tidy(self, machine_id: str) -> None:
        machine = self._machines.get(machine_id)
        if machine is not None and machine.connection is None and not machine.calls:
            del self._machines[machine_id]


def new_request_id() -> str:
    return uuid.uuid4().hex
