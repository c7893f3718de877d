"""One life of a dispatcher, from its start to its crash or its exit; all its seams pass one gate."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from bot.protocol import Hello
from dispatcher.bus import Hub, LocalBus
from dispatcher.core import Core, wire
from dispatcher.domain.errors import SessionError
from dispatcher.machines.channels import ChannelLost
from dispatcher.settings import Settings
from dispatcher.tasks import end_tasks
from tests.chaos.bots import Line
from tests.chaos.clients import ConnectionLost, HungUp
from tests.chaos.cloud import Site, SiteProvider
from tests.chaos.gate import CrashPoint, Gate, VirtualLoop
from tests.chaos.rooms import Line as RoomsLine
from tests.chaos.rooms import Service as RoomsService
from tests.chaos.wire import Access

T = TypeVar("T")

DEAD_CONNECTIONS = 0.02
LOST_COMMITS = 0.01
"""How often a transaction meets either: some in each simulation."""

GRACE_SECONDS = 10.0
"""How long a server that exits waits for its answers, as the real one does."""


class Outside(Protocol):
    """The parts of the world that a dispatcher's life needs."""

    loop: VirtualLoop
    settings: Settings
    sites: Mapping[str, Site]
    rooms: RoomsService
    hub: Hub | None
    store_down: bool
    store_blinks: bool
    lost_commits: float
    bus_down_since: float | None
    """In unix seconds; the store's outages are the bus's too."""

    def crashed(self, life: Incarnation, where: str) -> None: ...

    def transaction(self, life: Incarnation, writes: bool) -> None: ...

    def connection_broke(self, life: Incarnation, writes: bool) -> None: ...

    def internal_error(self, life: Incarnation, error: Exception) -> None: ...


class Incarnation:
    """A real dispatcher, but for its HTTP server."""

    def __init__(self, world: Outside, name: str, rng: random.Random, crash_point: CrashPoint | None) -> None:
        self.name = name
        self.gate = Gate(world.loop, rng, crash_point, lambda where: world.crashed(self, where))
        self.serving = False
        self.died: asyncio.Future[None] = world.loop.create_future()
        self._world = world
        self._rng = rng
        self._requests: dict[asyncio.Task[object], None] = {}
        self._channels: dict[asyncio.Task[None], Line] = {}
        self._exit = asyncio.Event()
        self.bus = Bus(self.gate, name, world)
        self._transactions = _Transactions(self, world, rng)
        self.core: Core = wire(
            world.settings,
            clock=_Clock(self.gate, world.loop),
            providers={name: SiteProvider(site, self.gate) for name, site in world.sites.items()},
            bus=self.bus,
            environment={},
            runner=self._transactions,
            rooms_api=RoomsLine(world.rooms, self.gate),
        )

    async def live(self) -> None:
        """Serve until told to exit; for ever, if it dies before."""
        async with self.core.running():
            self.serving = True
            await self._exit.wait()
            self.serving = False
            self.core.refuse()
            for line in self._channels.values():
                line.hang_up()
            if self._requests:
                await asyncio.wait(list(self._requests), timeout=GRACE_SECONDS)
            await self.gate.living()
            if left := [*self._requests, *self._channels]:
                await end_tasks(*left)
        await self.gate.living()

    def exit(self) -> None:
        """As SIGTERM does."""
        self._exit.set()

    def die(self) -> None:
        """As SIGKILL does: from this moment on it has no effect on anything."""
        self.gate.alive = False
        self.serving = False
        if self._world.hub is not None:
            self._world.hub.members.pop(self.name, None)
        for line in self._channels.values():
            line.hang_up()
        if not self.died.done():
            self.died.set_result(None)

    async def request(self, work: Callable[[Core], Awaitable[T]]) -> T:
        """Ask it something, over a connection that breaks when it dies."""
        if not self.serving:
            raise ConnectionLost
        task = asyncio.ensure_future(self._serve(work))
        self._requests[task] = None
        task.add_done_callback(self._requests.pop)
        await asyncio.wait((task, self.died), return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():
            raise ConnectionLost
        return task.result()

    async def _serve(self, work: Callable[[Core], Awaitable[T]]) -> T:
        await self.gate.through("request")
        error: Exception | None = None
        result: T | None = None
        try:
            result = await work(self.core)
        except IntegrityError as raised:  # who wrote the row that is in the way?
            self._world.internal_error(self, raised)
            error = raised
        except (SessionError, SQLAlchemyError, HungUp) as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - whatever it is, it must not be
            self._world.internal_error(self, raised)
            error = raised
        await self.gate.through("answer")
        if error is not None:
            raise error
        return result  # type: ignore[return-value] - T may be None

    def accept(self, machine_id: str) -> Line:
        """A machine opens its channel."""
        line = Line(self._world.loop, self._rng, self.gate)
        task = asyncio.ensure_future(self._channel(machine_id, line))
        self._channels[task] = line
        task.add_done_callback(self._channels.pop)
        return line

    async def _channel(self, machine_id: str, line: Line) -> None:
        """As the channel's endpoint does it."""
        reports = self.core.machine_reports
        try:
            hello = await line.receive()
            assert isinstance(hello, Hello), hello
            await reports.connected(machine_id, hello, line)
            while True:
                await reports.heard(machine_id, await line.receive())
        except ChannelLost:
            pass
        except SQLAlchemyError:
            line.hang_up()  # what the server does with any error of an endpoint
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            self._world.internal_error(self, error)
            line.hang_up()
        finally:
            reports.disconnected(machine_id, line)

    async def dispose(self) -> None:
        """Close what a dead one had open."""
        self._transactions.abandon()
        await self.core.store.close()


class _Clock:
    def __init__(self, gate: Gate, loop: VirtualLoop) -> None:
        self._gate = gate
        self._loop = loop

    def now(self) -> float:
        return self._loop.now

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await self._gate.living()
        await asyncio.sleep(max(seconds, 0.0))
        await self._gate.through("sleep", 0.0)


class _Transactions:
    """Runs transactions on the loop, several in any order: at a moment of its own each that writes, and each
    statement of one that only reads."""

    def __init__(self, life: Incarnation, world: Outside, rng: random.Random) -> None:
        self._life = life
        self._gate = life.gate
        self._world = world
        self._rng = rng
        self._open: dict[Access[Any], None] = {}

    async def run(self, work: Callable[[], T], *, writes: bool) -> T:
        kind = "write" if writes else "read"
        await self._gate.through(f"{kind} is asked", 0.0)
        outcome: asyncio.Future[T] = self._world.loop.create_future()
        # Once begun, a transaction ends, whether or not its caller still waits.
        self._world.loop.call_later(self._gate.moment(), self._begin, work, writes, outcome)
        try:
            return await outcome
        finally:
            if self._gate.alive:
                await self._gate.through(f"{kind} is answered", 0.0)

    def abandon(self) -> None:
        """Drop the answers that a dead dispatcher was about to read."""
        for access in self._open:
            access.abandon()

    def _begin(self, work: Callable[[], T], writes: bool, outcome: asyncio.Future[T]) -> None:
        if not self._gate.alive:
            return
        down, luck = self._world.store_down, self._rng.random()
        if down and luck < 0.9:
            if not outcome.done():
                outcome.set_exception(_no_answer())
            return
        blinks = self._world.store_blinks
        access = Access(
            work,
            writes=writes,
            dies_at=self._rng.randrange(3) if blinks and luck < DEAD_CONNECTIONS else None,
            commit_is_lost=down or (blinks and luck > 1 - self._world.lost_commits),
        )
        self._open[access] = None
        self._go_on(access, writes, outcome)

    def _go_on(self, access: Access[T], writes: bool, outcome: asyncio.Future[T]) -> None:
        if not self._gate.alive:
            return
        if not access.go_on():
            # Long enough that others have often acted.
            pause = self._rng.random()
            self._world.loop.call_later(pause, self._go_on, access, writes, outcome)
            return
        del self._open[access]
        if access.broke:
            self._world.connection_broke(self._life, writes)
        self._world.transaction(self._life, writes)
        if outcome.done():
            return
        if access.error is not None:
            outcome.set_exception(access.error)
        else:
            outcome.set_result(access.result)  # type: ignore[arg-type] - T may be None

    async def close(self) -> None:
        return None


def _no_answer() -> OperationalError:
    return OperationalError("the database does not answer", {}, Exception("simulated"))


class Bus(LocalBus):
    """A bus between dispatchers that takes its time, and loses what is said while it or the store is down.

    A dead one's messages are not heard.
    """

    def __init__(self, gate: Gate, replica: str, world: Outside) -> None:
        super().__init__(replica, world.hub)
        self._gate = gate
        self._world = world
        self._busy_until = 0.0

    @property
    def stands(self) -> bool:
        return not self._world.store_down and self._world.bus_down_since is None

    @property
    def down_since(self) -> float | None:
        return self._world.bus_down_since

    def publish(self, topic: str, payload: str, to: str | None = None) -> bool:
        hub = self._world.hub
        if not self._gate.alive or hub is None:
            return False
        if not self.stands:
            return False
        loop = self._world.loop
        # In the order in which they were said.
        self._busy_until = max(self._busy_until, loop.time() + self._gate.moment())
        for replica, member in list(hub.members.items()):
            if replica != self.replica and to in (None, replica):
                loop.call_at(self._busy_until, member._receive, self.replica, topic, payload)
        return to is None or to in hub.members

    def _receive(self, sender: str, topic: str, payload: str) -> None:
        if self._gate.alive:
            super()._receive(sender, topic, payload)

    def resume(self) -> None:
        """It stands again: messages may have been lost."""
        for subscriber in self._subscribers.values():
            subscriber.resumed()
