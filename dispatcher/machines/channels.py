"""The dispatcher's ends of the channels: one live connection per machine, and calls over it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Protocol

from bot.protocol import FromDispatcher, Request, Response


class ChannelLost(Exception):
    """The machine's connection broke before the message was out."""


class Connection(Protocol):
    """One connection of a machine."""

    async def send(self, message: FromDispatcher) -> None:
        """Raises ChannelLost if it broke before the message was out."""
        ...

    async def close(self, reason: str) -> None:
        """Close it; that it is closed already is fine."""
        ...


@dataclass
class _Machine:
    connection: Connection | None = None
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    calls: dict[str, asyncio.Future[Response]] = field(default_factory=dict)
    last_heard: float = 0.0


class Channels:
    """Which machine is connected, and how to reach it.

    A call outlives its connection: a machine that reconnects still answers what it was asked before.
    """

    def __init__(self) -> None:
        self._machines: dict[str, _Machine] = {}

    @property
    def connected(self) -> int:
        """How many machines are connected."""
        return sum(machine.connection is not None for machine in self._machines.values())

    async def attach(self, machine_id: str, connection: Connection, now: float) -> None:
        """A machine's connection stands. It takes the place of an earlier one, which is closed."""
        machine = self._machines.setdefault(machine_id, _Machine())
        replaced, machine.connection = machine.connection, connection
        machine.last_heard = now
        machine.connected.set()
        if replaced is not None:
            await replaced.close("another connection of this machine took its place")

    def detach(self, machine_id: str, connection: Connection) -> bool:
        """That connection is gone. False if another had taken its place already."""
        machine = self._machines.get(machine_id)
        if machine is None or machine.connection is not connection:
            return False
        machine.connection = None
        machine.connected.clear()
        if not machine.calls:
            del self._machines[machine_id]
        return True

    def heard(self, machine_id: str, now: float) -> None:
        """The machine sent something."""
        if machine := self._machines.get(machine_id):
            machine.last_heard = now

    def last_heard(self, machine_id: str) -> float | None:
        """When a connected machine last sent something, in unix seconds; None if it is not connected."""
        machine = self._machines.get(machine_id)
        return machine.last_heard if machine is not None and machine.connection is not None else None

    async def send(self, machine_id: str, message: FromDispatcher) -> bool:
        """Send to a machine. False if it is not connected, or its connection broke under the message."""
        machine = self._machines.get(machine_id)
        if machine is None or machine.connection is None:
            return False
        try:
            await machine.connection.send(message)
        except ChannelLost:
            return False
        return True

    async def call(self, machine_id: str, request: Request) -> Response:
        """Send a request as soon as the machine is connected, and wait for the answer as long as it takes.

        The caller bounds the wait by cancelling.
        """
        machine = self._machines.setdefault(machine_id, _Machine())
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        machine.calls[request.id] = future
        try:
            while True:
                await machine.connected.wait()
                if await self.send(machine_id, request):
                    return await future
                await asyncio.sleep(0)
        finally:
            del machine.calls[request.id]
            if machine.connection is None and not machine.calls:
                self._machines.pop(machine_id, None)

    def answered(self, machine_id: str, response: Response) -> None:
        """A machine answered a call. An answer that nobody waits for any more is dropped."""
        machine = self._machines.get(machine_id)
        future = machine.calls.get(response.id) if machine is not None else None
        if future is not None and not future.done():
            future.set_result(response)


def new_request_id() -> str:
    return uuid.uuid4().hex
