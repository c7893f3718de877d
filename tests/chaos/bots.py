"""The bots: what machines do on their own, and their end of the channel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from bot import protocol
from bot.control import Limits
from bot.protocol import FromDispatcher, FromMachine
from dispatcher.machines.channels import ChannelLost
from tests.chaos.cloud import Instance
from tests.chaos.gate import Gate, VirtualLoop


@dataclass(frozen=True)
class Script:
    """The script of one bot."""

    boot_seconds: float
    load_seconds: float
    dies_at_boot: bool
    talk_seconds: float
    """Time that its client stays, unless it is ended before."""
    completes: bool
    """True if it ends by itself when its client has left; else it waits for another."""
    heeds_stop: bool
    drops: float
    """The share of messages before which its channel breaks."""
    silent_drops: bool
    """True if its dispatcher learns of a broken channel only after a while."""
    hangs_after: float | None = None
    """Time from its boot until it stands still without dying; None: it never does."""


def script(rng: random.Random) -> Script:
    return Script(
        boot_seconds=rng.random() * rng.choice([0.5, 4.0]),
        load_seconds=rng.random() * rng.choice([0.5, 3.0]),
        dies_at_boot=rng.random() < 0.08,
        talk_seconds=rng.random() * rng.choice([3.0, 15.0]),
        completes=rng.random() < 0.6,
        heeds_stop=rng.random() < 0.85,
        drops=rng.choice([0.0, 0.0, 0.05, 0.15]),
        silent_drops=rng.random() < 0.3,
    )


class Line:
    """One connection between a machine and a dispatcher; what the dispatcher sees of it is a `Connection`."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, gate: Gate) -> None:
        self.to_machine: asyncio.Queue[FromDispatcher | None] = asyncio.Queue()
        self._to_dispatcher: asyncio.Queue[FromMachine | None] = asyncio.Queue()
        self._loop = loop
        self._rng = rng
        self._gate = gate
        self.broken = False

    async def send(self, message: FromDispatcher) -> None:
        await self._gate.through("channel send")
        if self.broken:
            raise ChannelLost("the connection broke")
        self.to_machine.put_nowait(message)
        await self._gate.through("channel sent")

    async def close(self, reason: str) -> None:
        await self._gate.through("channel close")
        self.hang_up()

    async def receive(self) -> FromMachine:
        message = await self._to_dispatcher.get()
        await self._gate.through("channel receive")
        if message is None:
            raise ChannelLost("closed")
        return message

    def report(self, message: FromMachine) -> None:
        """The machine sends; it arrives in order, or never."""
        if self.broken:
            raise ChannelLost("the connection broke")
        self._to_dispatcher.put_nowait(message)

    def hang_up(self, notice_seconds: float = 0.0) -> None:
        """Break the connection; the dispatcher learns of it after so many seconds."""
        if not self.broken:
            self.broken = True
            self.to_machine.put_nowait(None)
            self._loop.call_later(notice_seconds, self._to_dispatcher.put_nowait, None)


class Exchange(Protocol):
    """The place where machines find a dispatcher."""

    def connect(self) -> Line:
        """Raises ChannelLost if there is none."""
        ...


class Watch(Protocol):
    """Whoever is to know what became of machines."""

    def hung(self, instance: Instance) -> None: ...


class Room(Protocol):
    """The place where bots meet their clients that do not make offers."""

    def admits(self, url: str, token: str) -> bool: ...

    def has_client(self, session_id: str) -> bool: ...


class Bot:
    """A machine's program: reports like `bot/`, and follows its script."""

    def __init__(
        self,
        instance: Instance,
        script: Script,
        exchange: Exchange,
        loop: VirtualLoop,
        rng: random.Random,
        exit_: Callable[[Instance, int], None],
        room: Room,
        watch: Watch,
    ) -> None:
        self._instance = instance
        self._script = script
        self._exchange = exchange
        self._loop = loop
        self._rng = rng
        self._exit = exit_
        self._room = room
        self._watch = watch
        self._seat: tuple[str, str] | None = None
        """Room and token, of a session that has a room."""
        arguments = dict(zip(instance.spec.arguments, instance.spec.arguments[1:], strict=False))
        self._session_id = arguments.get("--session-id")
        if "--room-url" in arguments:
            self._seat = (arguments["--room-url"], arguments["--token"])
        self._max_duration = instance.spec.max_duration.total_seconds()
        self._phase: protocol.Phase = "booting"
        self._line: Line | None = None
        self._end: protocol.Ended | None = None
        self._acknowledged = asyncio.Event()
        self._offered = asyncio.Event()
        self._ending = asyncio.Event()
        self._assigned = asyncio.Event()
        self._room_open = asyncio.Event()
        self._answered: dict[str, protocol.Response] = {}
        self._beat_seconds = 2.0

    async def run(self) -> None:
        await asyncio.sleep(self._script.boot_seconds)
        if self._script.dies_at_boot:
            self._exit(self._instance, 1)
            return
        tasks = [
            asyncio.ensure_future(work)
            for work in (self._connect(), self._beat(), self._work(), self._listen_to_signals())
        ]
        try:
            await asyncio.wait([tasks[2]], timeout=self._script.hangs_after)
            if not tasks[2].done():
                await self._hang(tasks)
            tasks[2].result()
            # The last word is worth waiting for, but not for ever.
            await asyncio.wait([asyncio.ensure_future(self._acknowledged.wait())], timeout=5.0)
        finally:
            for task in tasks:
                task.cancel()
            if self._line is not None:
                self._line.hang_up()
        self._exit(self._instance, 0)

    async def _hang(self, tasks: Iterable[asyncio.Future[None]]) -> None:
        """Say, hear and do nothing any more, until the machine is killed. The connection stands."""
        for task in tasks:
            task.cancel()
        self._watch.hung(self._instance)
        await asyncio.Event().wait()

    async def _listen_to_signals(self) -> None:
        await self._instance.told_to_stop.wait()
        if self._script.heeds_stop:
            self._finish("stopped", "The machine was told to stop.")

    async def _connect(self) -> None:
        unheard_since = self._loop.time()
        while True:
            try:
                line = self._line = self._exchange.connect()
                line.report(
                    protocol.Hello(
                        machine_id=self._instance.id,
                        session_id=self._session_id,
                        phase=self._phase,
                        opened_at=self._loop.time(),
                    )
                )
                if self._end is not None:
                    line.report(self._end)
                while (message := await line.to_machine.get()) is not None:
                    self._hear(message)
                    unheard_since = self._loop.time()
            except ChannelLost:
                pass
            self._line = None
            if self._loop.time() - unheard_since >= Limits().room:
                self._room_open.set()
            await asyncio.sleep(0.2 + self._rng.random())

    def _hear(self, message: FromDispatcher) -> None:
        match message:
            case protocol.Welcome():
                self._beat_seconds = message.heartbeat_seconds
            case protocol.Assign():
                self._session_id = message.assignment.session_id
                if message.assignment.room_url is not None:
                    self._seat = (message.assignment.room_url, message.assignment.token or "")
                self._room_open.set()
                self._assigned.set()
            case protocol.RoomOpen():
                self._room_open.set()
            case protocol.Stop():
                if self._script.heeds_stop:
                    self._finish("stopped", message.message)
            case protocol.Acknowledge():
                self._acknowledged.set()
            case protocol.Request():
                answer = self._answered.setdefault(message.id, protocol.Response(id=message.id, status=200))
                self._offered.set()
                self._loop.call_later(self._rng.random() * 0.3, self._say, answer)

    def _finish(self, reason: protocol.EndReason, message: str) -> None:
        if self._end is None:
            self._end = protocol.Ended(reason=reason, message=message)
            self._phase = "ending"
            self._ending.set()
            self._say(self._end)

    def _say(self, message: FromMachine) -> None:
        line = self._line
        if line is None or line.broken:
            return
        if self._rng.random() < self._script.drops:
            line.hang_up(self._rng.random() * 30 if self._script.silent_drops else 0.0)
            return
        line.report(message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_seconds)
            self._say(protocol.Heartbeat(phase=self._phase, rss_bytes=1, cpu_seconds=1))

    async def _work(self) -> None:
        talk = asyncio.ensure_future(self._talk())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait(
                (talk, ending), timeout=self._max_duration, return_when=asyncio.FIRST_COMPLETED
            )
            if talk.done():
                talk.result()
            self._finish("max_duration", "The session's time is up.")
        finally:
            talk.cancel()
            ending.cancel()

    async def _talk(self) -> None:
        if self._session_id is None:
            self._phase = "idle"
            await self._assigned.wait()
        self._become("loading")
        await asyncio.sleep(self._script.load_seconds)
        if self._seat is None:
            self._become("waiting")
            await self._offered.wait()
        else:
            await self._room_open.wait()
        self._become("starting")
        await asyncio.sleep(self._rng.random() * 0.5)
        if self._seat is not None and not self._room.admits(*self._seat):
            self._finish("join_refused", "The bot is not let into its room.")
            return
        self._phase = "ready"
        self._say(protocol.Ready(timings=protocol.Timings(ready=1.0)))
        await asyncio.sleep(self._rng.random() * 0.5)
        while self._seat is not None and not self._room.has_client(self._session_id or ""):
            await asyncio.sleep(0.5)
        self._phase = "active"
        self._say(protocol.ClientConnected(timings=protocol.Timings(client=2.0)))
        self._say(protocol.Latency(kind="first_word", milliseconds=700.0))
        await asyncio.sleep(self._script.talk_seconds)
        self._phase = "ready"
        self._say(protocol.ClientDisconnected())
        if not self._script.completes:
            await asyncio.Event().wait()
        await asyncio.sleep(self._rng.random())
        self._finish("completed", "The bot returned.")

    def _become(self, phase: protocol.Phase) -> None:
        self._phase = phase
        self._say(protocol.Heartbeat(phase=phase, rss_bytes=1, cpu_seconds=1))


def hangs(rng: random.Random, share: float) -> float | None:
    """Draw when a bot stands still, if it is one of this share."""
    return rng.random() * 8.0 if rng.random() < share else None


CALM = Script(0.1, 0.1, False, 1.0, True, True, 0.0, False)
"""Script of bots that start when the world has calmed down."""
