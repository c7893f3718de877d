"""The machines APIs: what runs there whatever becomes of the dispatchers, and how it fails them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import (
    MachineSpec,
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)
from tests.chaos.gate import Gate, VirtualLoop

DARK_SECONDS = 12.0
"""Longer than a start looks for a machine that it cannot see, and shorter than many starts may take."""


@dataclass(frozen=True)
class Faults:
    """Faults of a machines API, each as a share of its calls. They end when the world calms down."""

    lost_requests: float = 0.0
    lost_replies: float = 0.0
    slow: float = 0.0
    throttled: float = 0.0
    no_capacity: float = 0.0
    quota: float = 0.0
    rejected: float = 0.0
    refused_late: float = 0.0
    """Of the creates: a machine is there and is gone again, and then the answer is that there was no room."""
    never_starts: float = 0.0
    faulty: float = 0.0
    dark_after_create: float = 0.0
    """Of the creates: the machine comes, its answer is lost, and no call is answered for `DARK_SECONDS`."""
    dark: tuple[float, float] = (0.0, 0.0)
    """From and until when (seconds of the simulation) no call is answered, though some come through."""
    killed: float = 0.0
    """Of the machines, not of the calls: killed without a word at some time."""


@dataclass(frozen=True)
class Habits:
    """Lasting traits of a machines API."""

    settling: float = 0.0
    """Seconds for which what was created may be unknown, or yet to come."""
    idempotent: bool = True
    """Whether a second create with the same id gives the same machine."""
    forgets_after: float = 1e9
    """Seconds for which it remembers machines that are gone."""
    boot_seconds: float = 0.5
    """How long a machine is `requested`, at most; 0 starts it within the call."""
    enforces_deadline: bool = True


@dataclass(eq=False)
class Instance:
    """A machine that exists or did."""

    serial: int
    site: str
    spec: MachineSpec
    created_at: float
    seen_from: float
    state: MachineState = MachineState.requested
    gone_at: float | None = None
    exit_code: int | None = None
    bot: asyncio.Task[None] | None = None
    told_to_stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def here(self) -> bool:
        return self.state is not MachineState.gone


class Witness(Protocol):
    """Sees what happens in the clouds, and says what runs on machines."""

    def machine_created(self, instance: Instance) -> None: ...

    def machine_gone(self, instance: Instance) -> None: ...

    def boot(self, instance: Instance) -> asyncio.Task[None]: ...


class _Order:
    """A create on its way: it comes true at its time, whoever still waits for it."""

    def __init__(self, site: Site, spec: MachineSpec, seconds: float, never: bool) -> None:
        self._site = site
        self.spec = spec
        self._seen_by = float("inf")
        self.done: asyncio.Future[Instance] = site.loop.create_future()
        self._timer = None if never else site.loop.call_later(seconds, self._come_true)

    def cut(self) -> None:
        """Nobody waits any more: it comes true within the settling time, or not at all."""
        if self._timer is None or self.done.done():
            return
        self._timer.cancel()
        settling = self._site.habits.settling
        self._seen_by = self._site.loop.now + settling
        if self._site.rng.random() < 0.5:
            latest = self._site.loop.time() + settling * self._site.rng.random()
            self._timer = self._site.loop.call_at(min(self._timer.when(), latest), self._come_true)

    def _come_true(self) -> None:
        if not self.done.done():
            self.done.set_result(self._site.launch(self.spec, self._seen_by))


class Site:
    """One placement's machines API, behind all dispatchers."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        rng: random.Random,
        habits: Habits,
        faults: Faults,
        witness: Witness,
        log: Callable[[str], None],
    ) -> None:
        self.name = name
        self.loop = loop
        self.rng = rng
        self.habits = habits
        self.faults = faults
        self.instances: list[Instance] = []
        self.orders: dict[_Order, Gate] = {}
        self.dark_until = 0.0
        self._witness = witness
        self._log = log

    def calm(self) -> None:
        """From now on nothing fails."""
        self.faults = Faults()
        self.dark_until = 0.0

    def here(self, machine_id: str) -> list[Instance]:
        return [instance for instance in self.instances if instance.id == machine_id and instance.here]

    def is_asked_for(self, machine_id: str) -> bool:
        """True if a dispatcher that lives waits for the answer to its create."""
        return any(order.spec.id == machine_id and gate.alive for order, gate in self.orders.items())

    def launch(self, spec: MachineSpec, seen_by: float) -> Instance:
        """A create comes true; `get` knows the machine by that time at the latest."""
        if self.habits.idempotent:
            for known in self.instances:
                if known.id == spec.id:
                    return known
        now = self.loop.now
        seen_from = min(now + self.habits.settling * self.rng.random(), seen_by)
        instance = Instance(len(self.instances), self.name, spec, now, seen_from)
        self.instances.append(instance)
        self._log(f"{self.name}: {spec.id} is created")
        self._witness.machine_created(instance)
        if self.rng.random() >= self.faults.never_starts:
            self.loop.call_later(self.habits.boot_seconds * self.rng.random(), self._start, instance)
        if self.rng.random() < self.faults.killed:
            self.loop.call_later(self.rng.random() * 15, self.end, instance, 137)
        if self.habits.enforces_deadline:
            self.loop.call_later(spec.max_duration.total_seconds() + 5, self.end, instance, 137)
        return instance

    def _start(self, instance: Instance) -> None:
        if instance.here and instance.state is MachineState.requested:
            instance.state = MachineState.started
            instance.bot = self._witness.boot(instance)

    def end(self, instance: Instance, exit_code: int) -> None:
        """The machine is gone from this moment on."""
        if not instance.here:
            return
        instance.state, instance.exit_code, instance.gone_at = MachineState.gone, exit_code, self.loop.now
        if instance.bot is not None:
            instance.bot.cancel()
        self._log(f"{self.name}: {instance.id} is gone, with {exit_code}")
        self._witness.machine_gone(instance)

    def seen(self, instance: Instance) -> bool:
        now = self.loop.now
        if instance.gone_at is not None and now > instance.gone_at + self.habits.forgets_after:
            return False
        return now >= instance.seen_from

    def crashed(self, gate: Gate) -> None:
        """Every connection of that dispatcher broke."""
        for order, of in list(self.orders.items()):
            if of is gate:
                order.cut()


class SiteProvider:
    """A dispatcher's adapter to a site."""

    name = "simulated"

    def __init__(self, site: Site, gate: Gate) -> None:
        self._site = site
        self._gate = gate

    @property
    def settling(self) -> timedelta:
        return timedelta(seconds=self._site.habits.settling)

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await self._gate.through("create is asked")
        site, faults, rng = self._site, self._site.faults, self._site.rng
        self._refuse_create()
        dark = self._dark()
        if faults.dark_after_create and not dark and self._luck(faults.dark_after_create):
            site.launch(spec, site.loop.now + site.habits.settling)
            site.dark_until = site.loop.time() + DARK_SECONDS
            raise Unreachable("the connection was reset")
        takes = rng.random() * (15.0 if self._luck(faults.slow) else 1.0)
        order = _Order(site, spec, takes, self._luck(0.5 if dark else faults.lost_requests))
        site.orders[order] = self._gate
        try:
            if dark or self._luck(faults.lost_replies):
                await self._gate.through("create is lost", rng.random() * 2 * takes)
                raise Unreachable("the connection was reset")
            instance = await asyncio.wait_for(asyncio.shield(order.done), 30.0)
            if faults.refused_late and instance.bot is None and self._luck(faults.refused_late):
                site.end(instance, 1)
                await self._gate.through("create is refused", rng.random() * 3)
                raise NoCapacity("the host has no memory left")
            if self._luck(faults.faulty):
                raise KeyError("taskArn")
            await self._gate.through("create is answered")
        except TimeoutError:
            raise Unreachable("the request timed out") from None
        finally:
            if self._gate.alive:
                order.cut()
                del site.orders[order]
        # The answer was written when the machine was created.
        state = MachineState.requested if site.habits.boot_seconds else MachineState.started
        return MachineStatus(spec.id, instance.state if not instance.here else state)

    def _refuse_create(self) -> None:
        faults = self._site.faults
        if self._dark():
            return
        if self._luck(faults.throttled):
            raise Throttled("rate exceeded", self._site.rng.choice([0.1, 1.0, 5.0]))
        refusals: list[tuple[float, ProviderError]] = [
            (faults.no_capacity, NoCapacity("the zone is full")),
            (faults.quota, QuotaReached("6 of 6 vCPU")),
            (faults.rejected, Rejected("no such image")),
        ]
        for share, error in refusals:
            if self._luck(share):
                raise error

    async def get(self, machine_id: str) -> MachineStatus | None:
        await self._ask("get")
        known = [one for one in self._site.instances if one.id == machine_id and self._site.seen(one)]
        # What is there hides what is gone.
        found = next((one for one in known if one.here), known[-1] if known else None)
        status = None if found is None else _status(found)
        await self._answer("get")
        return status

    async def list(self) -> AsyncIterator[MachineStatus]:
        await self._ask("list")
        page = [_status(one) for one in self._site.instances if one.here and self._site.seen(one)]
        await self._answer("list")
        for status in page:
            yield status

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        await self._ask("stop")
        for instance in self._site.here(machine_id):
            instance.told_to_stop.set()
            seconds = grace.total_seconds() * self._site.rng.random()
            if seconds > 0:
                self._site.loop.call_later(seconds, self._site.end, instance, 143)
            else:
                self._site.end(instance, 143)
        await self._answer("stop")

    async def _ask(self, action: str) -> None:
        await self._gate.through(f"{action} is asked")
        faults, rng = self._site.faults, self._site.rng
        if self._dark():
            # Longer than anybody waits for an answer, or at once.
            refused = self._site.loop.time() < self._site.dark_until
            await self._gate.through(
                f"{action} is lost", 0.0 if refused else rng.choice([0.0, 0.0, 0.0, 20.0])
            )
            raise Unreachable("no route to host")
        if self._luck(faults.throttled):
            raise Throttled("rate exceeded", rng.choice([0.1, 1.0]))
        if self._luck(faults.slow):
            await self._gate.through(f"{action} is slow", rng.random() * 15)
        if self._luck(faults.lost_requests):
            raise Unreachable("the connection timed out")

    async def _answer(self, action: str) -> None:
        if self._dark() or self._luck(self._site.faults.lost_replies):
            raise Unreachable("the connection was reset")
        await self._gate.through(f"{action} is answered")

    def _dark(self) -> bool:
        (from_, until), now = self._site.faults.dark, self._site.loop.time()
        return from_ <= now < until or now < self._site.dark_until

    def _luck(self, share: float) -> bool:
        return self._site.rng.random() < share


def _status(instance: Instance) -> MachineStatus:
    output = "the last words" if instance.state is MachineState.gone else ""
    return MachineStatus(instance.id, instance.state, instance.exit_code, output)


def habits(rng: random.Random) -> Habits:
    settling = rng.choice([0.0, 0.0, 1.0, 3.0])
    return Habits(
        settling=settling,
        idempotent=rng.random() < 0.5,
        forgets_after=rng.choice([0.0, 5.0, 1e9, 1e9]),
        boot_seconds=rng.choice([0.0, 0.5, 3.0]),
        enforces_deadline=rng.random() < 0.5,
    )


def faults(rng: random.Random) -> Faults:
    """A cloud that is mostly well, or ill in a few ways."""
    ills: dict[str, Any] = {}
    for name, worst in {
        "lost_requests": 0.3,
        "lost_replies": 0.3,
        "slow": 0.3,
        "throttled": 0.3,
        "no_capacity": 0.4,
        "quota": 0.3,
        "rejected": 0.1,
        "never_starts": 0.2,
        "faulty": 0.1,
        "killed": 0.4,
    }.items():
        if rng.random() < 0.4:
            ills[name] = rng.random() * worst
    if rng.random() < 0.3:
        from_ = rng.random() * 15
        ills["dark"] = (from_, from_ + rng.choice([2.0, 10.0]))
    # Drawn from numbers of its own, so that what it was added to stayed as it was.
    own = random.Random(repr(ills))
    if own.random() < 0.15:
        ills["refused_late"] = own.random() * 0.3
    if own.random() < 0.15:
        ills["dark_after_create"] = own.random() * 0.5
    return Faults(**ills)
