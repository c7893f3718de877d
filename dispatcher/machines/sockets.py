"""Joins a client's WebSocket to the one that its session's machine has opened: a rendezvous and a pump.

One client per session. Frames pass one at a time in each direction: a side that reads slowly makes the other
side's network wait, and nothing is queued here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from bot.protocol import MAX_SOCKET_FRAME_BYTES
from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks

NORMAL = 1000
TOO_BIG = 1009
FAILED = 1011
"""Close codes of RFC 6455, 7.4.1."""

REPLACED = 4409
IDLE = 4408

IDLE_SECONDS = 600.0
"""Limit on the time without a frame in either direction: twice Pipecat's own limit on an idle pipeline."""


class SocketClosed(Exception):
    """The WebSocket is closed; the code is one that may be sent on."""

    def __init__(self, code: int = NORMAL, reason: str = "") -> None:
        super().__init__(f"closed with code {code}")
        self.code = code
        self.reason = reason


class Taken(Exception):
    """The session has a client."""


class Socket(Protocol):
    """One accepted WebSocket. Sending and receiving raise `SocketClosed` once it is closed."""

    async def receive(self) -> str | bytes: ...

    async def send(self, frame: str | bytes) -> None: ...

    async def close(self, code: int, reason: str) -> None:
        """Close it. Idempotent."""
        ...


@dataclass
class _Meeting:
    here: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the machine's WebSocket waits for its client."""
    machine: Socket | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the machine's WebSocket is no longer needed."""
    has_client: bool = False
    is_joined: bool = False


class Sockets:
    """The meetings of this replica."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._meetings: dict[str, _Meeting] = {}

    def __len__(self) -> int:
        """Return the number of sessions with a machine or a client here."""
        return len(self._meetings)

    async def wait_for_client(self, session_id: str, machine: Socket) -> None:
        """Hold a machine's WebSocket until its client has come and gone, or the machine closes it.

        A later WebSocket of the same machine replaces one that still waits.
        """
        meeting = self._meetings.setdefault(session_id, _Meeting())
        if meeting.is_joined:
            await machine.close(REPLACED, "this session's client has been here")
            return
        if meeting.machine is not None:
            await meeting.machine.close(REPLACED, "another connection of this machine took its place")
            meeting.left.set()
        left = meeting.left = asyncio.Event()
        meeting.machine = machine
        meeting.here.set()
        try:
            await left.wait()
        finally:
            if meeting.machine is machine:
                meeting.machine = None
                meeting.here.clear()
                self._tidy(session_id, meeting)

    def gone(self, session_id: str, machine: Socket) -> None:
        """Note that a machine's WebSocket has closed, if it still waits for a client."""
        meeting = self._meetings.get(session_id)
        if meeting is not None and meeting.machine is machine and not meeting.is_joined:
            meeting.left.set()

    def claim(self, session_id: str) -> Claim:
        """Reserve the session for a client.

        Raises:
            Taken: another client waits or talks.
        """
        meeting = self._meetings.setdefault(session_id, _Meeting())
        if meeting.has_client:
            raise Taken("This session has a client already.")
        meeting.has_client = True
        return Claim(self, session_id, meeting, self._clock)

    def _tidy(self, session_id: str, meeting: _Meeting) -> None:
        if meeting.machine is None and not meeting.has_client and self._meetings.get(session_id) is meeting:
            del self._meetings[session_id]


class Claim:
    """A client's reservation of its session."""

    def __init__(self, sockets: Sockets, session_id: str, meeting: _Meeting, clock: Clock) -> None:
        self._sockets = sockets
        self._session_id = session_id
        self._meeting = meeting
        self._clock = clock

    async def machine(self) -> Socket:
        """Return the machine's WebSocket once it is here."""
        meeting = self._meeting
        while True:
            await meeting.here.wait()
            if meeting.machine is not None:
                meeting.is_joined = True
                return meeting.machine

    async def talk(self, client: Socket, machine: Socket) -> None:
        """Pass frames both ways until one side closes, then close the other with the same code."""
        pump = _Pump(client, machine, self._clock)
        await pump.run()

    def release(self) -> None:
        """Let go of the session. After a talk its machine's WebSocket is over too."""
        meeting = self._meeting
        meeting.has_client = False
        if meeting.is_joined:
            meeting.left.set()
        self._sockets._tidy(self._session_id, meeting)


class _Pump:
    def __init__(self, client: Socket, machine: Socket, clock: Clock) -> None:
        self._client = client
        self._machine = machine
        self._clock = clock
        self._last = clock.monotonic()

    async def run(self) -> None:
        tasks = [
            asyncio.create_task(self._pass(self._client, self._machine)),
            asyncio.create_task(self._pass(self._machine, self._client)),
            asyncio.create_task(self._watch()),
        ]
        end = SocketClosed(FAILED, "the dispatcher ended this connection")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            end = next(iter(done)).result()
        finally:
            await end_tasks(*tasks)
            await self._client.close(end.code, end.reason)
            await self._machine.close(end.code, end.reason)

    async def _pass(self, source: Socket, target: Socket) -> SocketClosed:
        try:
            while True:
                frame = await source.receive()
                self._last = self._clock.monotonic()
                if len(frame) > MAX_SOCKET_FRAME_BYTES:
                    return SocketClosed(TOO_BIG, f"a frame may have {MAX_SOCKET_FRAME_BYTES} bytes")
                await target.send(frame)
        except SocketClosed as closed:
            return closed

    async def _watch(self) -> SocketClosed:
        while (left := self._last + IDLE_SECONDS - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        return SocketClosed(IDLE, f"no frame passed for {IDLE_SECONDS:g} s")
