"""A deployment in which everything may go wrong, played from one seed; the same seed plays it again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
import sqlite3
import tempfile
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from dispatcher.bus import Hub
from dispatcher.core import Core
from dispatcher.domain.model import MachineState
from dispatcher.machines.channels import ChannelLost
from dispatcher.machines.process.settings import ProcessPlacement
from dispatcher.sessions.maintenance import reaper
from dispatcher.sessions.queue import limits_of
from dispatcher.settings import AgentSettings, Settings
from dispatcher.store import migrate, store
from dispatcher.transports.daily.settings import DailyShared
from tests.chaos import bots, cloud, rooms, wire
from tests.chaos.bots import Bot, Line
from tests.chaos.clients import Attempt, Client, ConnectionLost, Plan, Record, plans
from tests.chaos.cloud import Instance, Site
from tests.chaos.gate import CrashPoint, VirtualLoop
from tests.chaos.incarnation import LOST_COMMITS, Incarnation
from tests.chaos.invariants import MARKERS, Invariants, Violation

T = TypeVar("T")

AT_HAND = ProcessPlacement(provider="process")
"""Settings of the simulation's placements, of which nothing is read but that they need no image."""

HORIZON = 25.0
"""Seconds of faults. Then the world calms down."""

NOTICED_ALONE = 8.0
NOTICED = 25.0
"""Seconds within which a waiting session must get a free slot. Among several dispatchers it may take until
one that died is known to be dead."""

TICK_SECONDS = 2.0
"""How often the reaper looks here: its rounds would be most of what a simulation costs."""

MEMORY = Path("/dev/shm")
"""Where files cost nothing, on Linux."""

CRASH_KINDS = (
    "request",
    "answer",
    "write is asked",
    "write is answered",
    "read is answered",
    "create is asked",
    "create is answered",
    "create is lost",
    "get is answered",
    "stop is asked",
    "stop is answered",
    "room is asked",
    "room is answered",
    "room is lost",
    "channel send",
    "channel sent",
    "channel receive",
    "sleep",
)


@dataclass(frozen=True)
class Script:
    """Parts of a simulation that are given, whatever its seed would have made of them."""

    alone: bool = False
    """Nothing fails but what is given here, and no dispatcher crashes or restarts."""
    placements: int | None = None
    machines: Mapping[str, float] = field(default_factory=dict)
    """Fields of the machines APIs' `Faults`."""
    rooms: Mapping[str, float] | None = None
    """Fields of the `Faults` of the service with the rooms. If given, sessions may have rooms."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The dispatchers' settings."""
    agents: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every agent."""
    crowd: bool = False
    """Clients wait for few slots, and keep coming back."""
    rush: bool = False
    """All clients come within half a second."""
    deaf: bool = False
    """There are two dispatchers, and no bus between them until the world calms down."""
    lost_commits: float = LOST_COMMITS
    """Transactions whose answer is lost, as a share of all."""
    hanging: float = 0.2
    """Bots that stand still at some time, as a share of all."""


AS_DRAWN = Script()


@dataclass
class Outcome:
    """Outcome of a simulation."""

    seed: int
    trace: str
    """A hash of all that happened, in its order."""
    violation: Violation | None
    seconds: float
    """Of virtual time."""
    story: list[str]
    counts: Counter[str] = field(default_factory=Counter)


class World:
    """One simulation."""

    def __init__(self, seed: int, directory: Path, script: Script) -> None:
        self.seed = seed
        self.loop = VirtualLoop()
        rng = self._rng("plan")
        settings = _with_rooms(self._rng("rooms wanted"), _settings(rng, directory), script)
        # Drawn from numbers of its own, so that what it was added to stayed as it was.
        grace = self._rng("grace").choice([3.0, 20.0, 60.0])
        silence = self._rng("silence").choice([6.0, 15.0])
        settings = settings.model_copy(update={"ending_seconds": grace, "unresponsive_seconds": silence})
        self.settings = _scripted(settings, script)
        self._script = script
        self.replicas = rng.choice([1, 1, 2])
        if script.deaf:
            self.replicas = 2
        self.hub = Hub() if self.replicas > 1 else None
        self.store_down = False
        self.store_blinks = not script.alone
        self.lost_commits = script.lost_commits
        self.bus_down_since: float | None = None
        self.story: list[str] = []
        self.counts: Counter[str] = Counter()
        self.violation: Violation | None = None
        self.record = Record()
        self._hash = hashlib.sha256()
        self._violated = self.loop.create_future()
        self.sites: Mapping[str, Site] = {
            name: Site(
                name,
                self.loop,
                self._rng(name),
                cloud.habits(rng),
                replace(cloud.Faults() if script.alone else cloud.faults(rng), **script.machines),
                self,
                self.tell,
            )
            for name in self.settings.placements
        }
        rooms_rng = self._rng("rooms")
        rooms_faults = rooms.Faults() if script.alone else rooms.faults(rooms_rng)
        rooms_faults = replace(rooms_faults, **(script.rooms or {}))
        self.rooms = rooms.Service(self.loop, rooms_rng, rooms_faults, self._room_changed)
        self.invariants = Invariants(
            directory / "switchboard.sqlite",
            self.sites,
            self.rooms,
            limits_of(self.settings),
            self.settings.ending_seconds,
            self.settings.unresponsive_seconds,
            self.record,
            lambda: self.loop.now,
            self.violate,
        )
        self.lives: list[Incarnation] = []
        self._plan = rng
        self._channel_rng = self._rng("channels")
        self._bot_rng = self._rng("bots")
        self._calm = False

    def run(self) -> Outcome:
        try:
            self.loop.run_until_complete(self._play())
        finally:
            self._dispose()
        return Outcome(
            self.seed, self._hash.hexdigest(), self.violation, self.loop.time(), self.story, self.counts
        )

    async def _play(self) -> None:
        playing = asyncio.ensure_future(self._scenario())
        await asyncio.wait((playing, self._violated), return_when=asyncio.FIRST_COMPLETED)
        if playing.done():
            playing.result()

    async def _scenario(self) -> None:
        rng = self._plan
        replicas = [
            asyncio.ensure_future(self._replica(index, 0 if self._script.alone else rng.randint(0, 3)))
            for index in range(self.replicas)
        ]
        watching = asyncio.ensure_future(self._watch_slots())
        outage = asyncio.ensure_future(self._outages(0 if self._script.alone else rng.choice([0, 0, 1])))
        cut = asyncio.ensure_future(self._cut_off(self._rng("bus")))
        clients = [
            asyncio.create_task(
                Client(
                    plan,
                    self,
                    self.record,
                    lambda: self.loop.now,
                    self._rng(plan.name),
                    lambda: len(self.lives),
                    self._answered,
                ).run(),
                name=plan.name,
            )
            for plan in self._over_transports(
                plans(rng, list(self.settings.agents), HORIZON, self._script.crowd, self._script.rush)
            )
        ]
        await asyncio.sleep(HORIZON)
        await asyncio.gather(outage, cut)
        self._calm = True
        self.store_blinks = False
        self.tell("the world calms down")
        for site in self.sites.values():
            site.calm()
        self.rooms.calm()
        await self._quiet(clients)
        watching.cancel()
        for task in (*clients, *replicas):
            if task.done():
                task.result()
        self.invariants.at_the_end()

    async def _quiet(self, clients: list[asyncio.Task[None]]) -> None:
        agents, calm_at = self.settings.agents.values(), self.loop.now
        longest = max(agent.max_duration_seconds + agent.start_timeout_seconds for agent in agents)
        # The longest: a dead reaper's lease, then two listings of machines that nobody owns.
        deadline = self.loop.time() + longest + 150.0
        while True:
            await asyncio.sleep(1.0)
            self.invariants.rooms_are_deleted(calm_at)
            self.invariants.the_hung_are_ended(calm_at)
            left = self.invariants.unsettled()
            left += [f"client {client.get_name()} has no answer" for client in clients if not client.done()]
            if not left:
                return
            if self.loop.time() > deadline:
                self.violate("settles", "; ".join(left))
                return

    def _over_transports(self, plans: list[Plan]) -> list[Plan]:
        """Some meet their bots in rooms, where there are any."""
        rng = self._rng("transports")
        if self.settings.shared("daily", DailyShared).api_key is None:
            return plans
        return [replace(plan, transport="daily") if rng.random() < 0.6 else plan for plan in plans]

    async def _watch_slots(self) -> None:
        """A line that stays free while somebody waits for it."""
        patience = NOTICED_ALONE if self.hub is None else NOTICED
        free_since: float | None = None
        while True:
            await asyncio.sleep(0.5)
            served = any(life.serving for life in self.lives) and not self.store_down
            if not served or not self.invariants.slot_is_free():
                free_since = None
            elif free_since is None:
                free_since = self.loop.time()
            elif self.loop.time() > free_since + patience:
                self.violate("slots are handed on", f"nobody got a free slot for {patience:g} s")
                return

    async def _replica(self, index: int, crashes: int) -> None:
        """One dispatcher after the other, on the same store."""
        rng = self._rng(f"replica {index}")
        number = 0
        while True:
            point = self._crash_point(rng) if crashes > 0 and not self._calm else None
            number += 1
            life = Incarnation(self, f"d{index}.{number}", self._rng(f"life {index}.{number}"), point)
            self.lives.append(life)
            self.tell(f"{life.name} starts")
            living = asyncio.ensure_future(life.live())
            leaves = asyncio.ensure_future(asyncio.sleep(rng.random() * HORIZON))
            restarts = not (self._calm or self._script.alone) and point is None and rng.random() < 0.4
            waiting = [living, life.died, *([leaves] if restarts else [])]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if leaves.done() and not living.done() and not life.died.done():
                self.tell(f"{life.name} is told to exit")
                life.exit()
                await asyncio.wait((living, life.died), timeout=60.0, return_when=asyncio.FIRST_COMPLETED)
                if not living.done() and not life.died.done():
                    self.violate("exits", f"{life.name} does not exit")
            leaves.cancel()
            if life.died.done():
                crashes -= 1
            else:
                self.tell(f"{life.name} has exited")
                life.die()
                if (error := living.exception()) is not None and not isinstance(error, SQLAlchemyError):
                    self.internal_error(life, error)
            await asyncio.sleep(rng.choice([0.05, 0.5, 3.0, 8.0]))

    def _crash_point(self, rng: random.Random) -> CrashPoint:
        if rng.random() < 0.3:
            return CrashPoint(int(2 ** (rng.random() * 10)))
        return CrashPoint(int(2 ** (rng.random() * 4)), rng.choice(CRASH_KINDS))

    async def _outages(self, number: int) -> None:
        for _ in range(number):
            await asyncio.sleep(self._plan.random() * HORIZON * 0.8)
            self.store_down = True
            self.tell("the store is down")
            await asyncio.sleep(self._plan.random() * 6)
            self.store_down = False
            self._resume_bus()
            self.tell("the store is back")

    async def _cut_off(self, rng: random.Random) -> None:
        """The bus fails alone, where there is one: the store answers all the while."""
        if self.hub is None or ((self._script.alone or rng.random() < 0.5) and not self._script.deaf):
            return
        if self._script.deaf:
            self.bus_down_since = self.loop.now
            await asyncio.sleep(HORIZON)
            self.bus_down_since = None
            self._resume_bus()
            return
        await asyncio.sleep(rng.random() * HORIZON * 0.6)
        self.bus_down_since = self.loop.now
        self.tell("the bus is down")
        await asyncio.sleep(rng.random() * HORIZON * 0.4)
        self.bus_down_since = None
        self._resume_bus()
        self.tell("the bus is back")

    def _resume_bus(self) -> None:
        if self.store_down or self.bus_down_since is not None:
            return
        for life in self.lives:
            if life.serving:
                life.bus.resume()

    # What the parts need of the world.

    def crashed(self, life: Incarnation, where: str) -> None:
        self.tell(f"{life.name} crashes at '{where}'")
        self.counts["crashes"] += 1
        life.die()
        for site in self.sites.values():
            site.crashed(life.gate)

    def transaction(self, life: Incarnation, writes: bool) -> None:
        self._note(f"{life.name} {'writes' if writes else 'reads'}")
        self.counts["transactions"] += 1
        if writes:
            self.invariants.transaction()

    def connection_broke(self, life: Incarnation, writes: bool) -> None:
        self.tell(f"{life.name} loses its connection in a {'write' if writes else 'read'}")
        self.counts["broken connections"] += 1

    def internal_error(self, life: Incarnation, error: BaseException) -> None:
        self.violate("no internal errors", f"{life.name}: {type(error).__name__}: {error}")

    async def request(self, name: str, work: Callable[[Core], Awaitable[T]]) -> T:
        serving = [life for life in self.lives if life.serving]
        self._note(f"request {name}")
        if not serving:
            await asyncio.sleep(0.01)
            raise ConnectionLost
        self.counts["requests"] += 1
        return await self._channel_rng.choice(serving).request(work)

    def _answered(self, attempt: Attempt) -> None:
        got = attempt.error or ("lost" if attempt.lost else "hung up" if attempt.hung_up else "")
        self.tell(f"client {attempt.marker}: {got or f'session {attempt.session_id} {attempt.state}'}")
        self.invariants.answered(attempt)

    def machine_created(self, instance: Instance) -> None:
        self.counts["machines"] += 1
        self.invariants.machine_created(instance)

    def machine_gone(self, instance: Instance) -> None:
        pass

    def hung(self, instance: Instance) -> None:
        self.tell(f"machine {instance.id} hangs")
        self.counts["hung"] += 1
        self.invariants.machine_hung(instance)

    def _room_changed(self, what: str, name: str) -> None:
        self.tell(f"room {name} is {what}")
        self.counts[f"rooms {what}"] += 1
        self.invariants.room_changed(what, name)

    # What bots need of rooms.

    def admits(self, url: str, token: str) -> bool:
        return self.rooms.admits(url, token)

    def has_client(self, session_id: str) -> bool:
        return session_id in self.record.joined

    # What the parts need of the world.

    def boot(self, instance: Instance) -> asyncio.Task[None]:
        script = bots.script(self._bot_rng)
        # Drawn from numbers of its own, so that what it was added to stayed as it was.
        script = replace(
            script, hangs_after=bots.hangs(self._rng(f"hang {instance.id}"), self._script.hanging)
        )
        if self._calm:
            script = bots.CALM
        exchange, rng = _Exchange(self, instance), self._rng(f"bot {instance.id}")
        end = self.sites[instance.site].end
        bot = Bot(instance, script, exchange, self.loop, rng, end, self, self)
        return asyncio.ensure_future(bot.run())

    def connect(self, instance: Instance) -> Line:
        serving = [life for life in self.lives if life.serving]
        if not serving or instance.state is MachineState.gone:
            raise ChannelLost("nobody listens")
        return self._channel_rng.choice(serving).accept(instance.id)

    def violate(self, invariant: str, words: str) -> None:
        """A promise is broken: the simulation ends here."""
        if self.violation is None:
            self.violation = Violation(invariant, words, self.loop.time())
            self.tell(f"VIOLATION: {invariant}: {words}")
            if not self._violated.done():
                self._violated.set_result(None)

    def tell(self, words: str) -> None:
        """Write a line for the reader of the story."""
        self.story.append(f"{self.loop.time():9.3f}  {words}")
        self._note(words)

    def _note(self, words: str) -> None:
        self._hash.update(f"{self.loop.time():.6f} {words}\n".encode())

    def _rng(self, name: str) -> random.Random:
        """Chance for one part of the world: what it draws does not change what others do."""
        return random.Random(f"{self.seed}/{name}")

    def _dispose(self) -> None:
        for life in self.lives:
            life.gate.disposing = True
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=0.001))
        for life in self.lives:
            self.loop.run_until_complete(life.dispose())
        self.invariants.close()
        self.loop.close()


class _Exchange:
    def __init__(self, world: World, instance: Instance) -> None:
        self._world = world
        self._instance = instance

    def connect(self) -> Line:
        return self._world.connect(self._instance)


def simulate(seed: int, script: Script = AS_DRAWN) -> Outcome:
    """Play one seed."""
    rng = random.Random(f"{seed}/ids")
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        path = Path(directory)
        (path / "switchboard.sqlite").write_bytes(_empty_store())
        (path / "machine-token.key").write_bytes(bytes(32))
        with (
            mock.patch.object(
                uuid, "uuid4", side_effect=lambda: uuid.UUID(int=rng.getrandbits(128), version=4)
            ),
            mock.patch.object(store, "upgrade"),
            mock.patch.object(reaper, "TICK_SECONDS", TICK_SECONDS),
            mock.patch.object(sa, "create_engine", _create_engine),
        ):
            return World(seed, path, script).run()


_new_engine = sa.create_engine


def _create_engine(url: sa.URL, **more: Any) -> sa.Engine:
    return wire.engine(_new_engine, url, **more)


@functools.cache
def _empty_store() -> bytes:
    """A migrated store with nothing in it: made once, migrations take longer than a simulation."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        path = Path(directory) / "empty.sqlite"
        engine = sa.create_engine(f"sqlite:///{path}")
        with engine.connect() as connection:
            migrate.upgrade(connection)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(MARKERS)
        return path.read_bytes()


def _scripted(settings: Settings, script: Script) -> Settings:
    agents = {name: agent.model_copy(update=script.agents) for name, agent in settings.agents.items()}
    placements = settings.placements
    if script.placements is not None:
        placements = dict.fromkeys(["one", "two"][: script.placements], AT_HAND)
    return settings.model_copy(update={"agents": agents, "placements": placements, **script.settings})


def _with_rooms(rng: random.Random, settings: Settings, script: Script) -> Settings:
    """In some worlds sessions may have rooms; they do not close by themselves before it is noticed that
    nobody deletes them."""
    if rng.random() < 0.5 and script.rooms is None:
        return settings
    agents = {
        name: agent.model_copy(update={"transports": ("webrtc", "daily"), "max_duration_seconds": 600.0})
        for name, agent in settings.agents.items()
    }
    return settings.model_copy(update={"agents": agents, **rooms.SETTINGS})


def _settings(rng: random.Random, directory: Path) -> Settings:
    placements = ["one", "two"][: rng.choice([1, 1, 2])]
    agents = {
        name: AgentSettings(
            bot=Path("bot.py"),
            max_sessions=rng.randint(1, 3),
            max_queued=rng.choice([0, 2, 5]),
            max_queue_seconds=20,
            start_timeout_seconds=rng.choice([4.0, 10.0, 16.0]),
            client_timeout_seconds=rng.choice([4.0, 8.0]),
            idle_timeout_seconds=rng.choice([2.0, 5.0]),
            max_duration_seconds=rng.choice([8.0, 25.0]),
        )
        for name in ["echo", "voice"][: rng.randint(1, 2)]
    }
    # Settings allow one placement of processes only; these are none.
    settings = Settings(
        data_dir=directory,
        agents=agents,
        max_sessions=rng.choice([None, None, 2, 3]),
        heartbeat_seconds=2.0,
        call_timeout_seconds=5.0,
    )
    return settings.model_copy(update={"placements": dict.fromkeys(placements, AT_HAND)})
