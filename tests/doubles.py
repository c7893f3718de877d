"""Test doubles: a clock that runs by itself, a machines API in memory, and providers named by their fault.

The API (`Cloud`) is the truth: what runs there and how often it was asked. A provider is one adapter to it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import (
    Action,
    MachineSpec,
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rate,
    Rejected,
    Throttled,
    Unreachable,
)
from tests.dispatcher.harness import ManualClock

T = TypeVar("T")

FOREVER = 10.0**9

EXIT_AFTER = "EXIT_AFTER_SECONDS"
EXIT_CODE = "EXIT_CODE"
"""Variables by which a machine of the cloud in memory is told to end by itself."""


class VirtualClock(ManualClock):
    """Time that jumps to the next sleeper whenever there is nothing else to do."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end, in no time."""

        async def drive() -> T:
            task = asyncio.ensure_future(work)
            try:
                while not task.done():
                    # Longer than any chain of callbacks that one event sets off here.
                    for _ in range(100):
                        await asyncio.sleep(0)
                    if not task.done():
                        self.advance(max(0.0, self.next_wake() - self.now()))
                return task.result()
            finally:
                task.cancel()

        return asyncio.run(drive())

    def next_wake(self) -> float:
        awake = [at for at, _, future in self._sleepers if not future.done()]
        assert awake, "everybody waits for something that time does not bring"
        return min(awake)


@dataclass
class Instance:
    """A machine of the cloud."""

    name: str
    """The identity under which the cloud knows it."""
    machine_id: str
    created_at: float
    ends_at: float = FOREVER
    exit_code: int | None = None


@dataclass
class Cloud:
    """A machines API in memory, behind any number of provider objects."""

    clock: Clock
    instances: list[Instance] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    filters: bool = True
    """False: it ignores the filter of a list."""
    mixed_up: dict[str, str] = field(default_factory=dict)
    """Name that it is asked for → name of the instance that it shows."""

    def running(self, machine_id: str | None = None) -> list[Instance]:
        now = self.clock.now()
        return [
            instance
            for instance in self.instances
            if instance.created_at <= now < instance.ends_at and machine_id in (None, instance.machine_id)
        ]

    def listed(self, deployment: str) -> list[Instance]:
        """Its answer to a list of one deployment's machines."""
        return [one for one in self.running() if not self.filters or one.name.startswith(f"{deployment}-")]

    def shown(self, name: str) -> Instance | None:
        """Its answer when it is asked for one machine."""
        name, now = self.mixed_up.get(name, name), self.clock.now()
        return next((one for one in self.instances if one.name == name and one.created_at <= now), None)

    def start(self, spec: MachineSpec, name: str, late: float = 0) -> None:
        now = self.clock.now() + late
        after = float(spec.environment.get(EXIT_AFTER, FOREVER))
        code = int(spec.environment.get(EXIT_CODE, 0))
        limit = spec.max_duration.total_seconds()
        ends_at, exit_code = (now + after, code) if after < limit else (now + limit, 137)
        self.instances.append(Instance(name, spec.id, now, ends_at, exit_code))


class GoodProvider:
    """Keeps the whole contract."""

    name = "memory"
    deployment = "sb"

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.cloud.calls["create"] += 1
        if self.find(spec.id) is None:
            self.cloud.start(spec, self.identity(spec.id))
        await asyncio.sleep(0)
        return MachineStatus(spec.id, MachineState.started)

    async def get(self, machine_id: str) -> MachineStatus | None:
        self.cloud.calls["get"] += 1
        instance = self.find(machine_id)
        return None if instance is None else self.status(instance)

    async def list(self) -> AsyncIterator[MachineStatus]:
        self.cloud.calls["list"] += 1
        for instance in self.cloud.listed(self.deployment):
            if instance.name == self.identity(instance.machine_id):
                yield self.status(instance)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        self.cloud.calls["stop"] += 1
        now = self.cloud.clock.now()
        for instance in self.cloud.running(machine_id):
            if instance.name == self.identity(machine_id):
                instance.ends_at, instance.exit_code = now, 143

    def identity(self, machine_id: str) -> str:
        return f"{self.deployment}-{machine_id}"

    def find(self, machine_id: str) -> Instance | None:
        found, name = self.cloud.shown(self.identity(machine_id)), self.identity(machine_id)
        if found is not None and found.name != name:
            raise Unreachable(f"asked for {name}, the cloud showed {found.name}")
        return found

    def status(self, instance: Instance) -> MachineStatus:
        if instance.ends_at > self.cloud.clock.now():
            return MachineStatus(instance.machine_id, MachineState.started)
        return MachineStatus(instance.machine_id, MachineState.gone, instance.exit_code)


class SlowProvider(GoodProvider):
    """Takes its time to create."""

    def __init__(self, cloud: Cloud, seconds: float) -> None:
        super().__init__(cloud)
        self.seconds = seconds

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await self.cloud.clock.sleep(self.seconds)
        return await super().create(spec)


class NeverAnswers(GoodProvider):
    """Takes every call and answers none; nothing comes of them."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        return await self._hang("create")

    async def get(self, machine_id: str) -> MachineStatus | None:
        await self._hang("get")

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        await self._hang("stop")

    async def _hang(self, action: str) -> Any:
        self.cloud.calls[action] += 1
        await asyncio.Event().wait()


class NeverStarts(GoodProvider):
    """Accepts every machine, and none of them ever starts."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        return replace(await super().create(spec), state=MachineState.requested)

    def status(self, instance: Instance) -> MachineStatus:
        return replace(super().status(instance), state=MachineState.requested)


class LeavesMachines(GoodProvider):
    """Creates a machine in one call and starts it in another, which its creates do not come to.

    A start gives one of these errors after the other, and then works.
    """

    def __init__(self, cloud: Cloud, *faults: ProviderError) -> None:
        super().__init__(cloud)
        self.left: set[str] = set()
        self.faults = list(faults)

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await self.leave(spec)
        raise Unreachable("connection reset")

    async def leave(self, spec: MachineSpec) -> None:
        self.left.add(spec.id)
        await super().create(spec)

    async def start(self, spec: MachineSpec) -> MachineStatus:
        machine_id = spec.id
        self.cloud.calls["start"] += 1
        if self.faults:
            fault = self.faults.pop(0)
            if not isinstance(fault, Unreachable):
                self._forget(machine_id)
            raise fault
        self.left.discard(machine_id)
        return MachineStatus(machine_id, MachineState.started)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        await super().stop(machine_id, grace)
        if machine_id in self.left:
            self._forget(machine_id)

    def _forget(self, machine_id: str) -> None:
        """Forget a machine that never ran: it leaves nothing."""
        self.left.discard(machine_id)
        self.cloud.instances = [one for one in self.cloud.instances if one.machine_id != machine_id]

    def status(self, instance: Instance) -> MachineStatus:
        status = super().status(instance)
        return replace(status, state=MachineState.requested) if instance.machine_id in self.left else status


class LosesReplies(GoodProvider):
    """Creates the machine, and the answer is lost."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await super().create(spec)
        raise Unreachable("connection reset")


class LosesRequests(GoodProvider):
    """The first creates never arrive; the caller cannot tell."""

    def __init__(self, cloud: Cloud, times: int) -> None:
        super().__init__(cloud)
        self.times = times

    async def create(self, spec: MachineSpec) -> MachineStatus:
        if self.cloud.calls["create"] < self.times:
            self.cloud.calls["create"] += 1
            raise Unreachable("connection timed out")
        return await super().create(spec)


class CreatesTwiceIfAsked(GoodProvider):
    """Does not know what it has created."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.cloud.calls["create"] += 1
        self.cloud.start(spec, self.identity(spec.id))
        return MachineStatus(spec.id, MachineState.started)


class LosesTheFirstReply(CreatesTwiceIfAsked):
    """Loses one answer, and does not know what it has created."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        status = await super().create(spec)
        if self.cloud.calls["create"] == 1:
            raise Unreachable("connection reset")
        return status


class ListsLate(LosesTheFirstReply):
    """And what it created is visible to nobody for a while."""

    def __init__(self, cloud: Cloud, seconds: float) -> None:
        super().__init__(cloud)
        self.settling = timedelta(seconds=seconds)

    def find(self, machine_id: str) -> Instance | None:
        instance = super().find(machine_id)
        now = self.cloud.clock.now()
        seen = instance is not None and now >= instance.created_at + self.settling.total_seconds()
        return instance if seen else None


class CreatesLate(GoodProvider):
    """The answer is lost, and the machine comes into being a while after that."""

    def __init__(self, cloud: Cloud, seconds: float) -> None:
        super().__init__(cloud)
        self.settling = timedelta(seconds=seconds)

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.cloud.calls["create"] += 1
        self.cloud.start(spec, self.identity(spec.id), late=self.settling.total_seconds() * 0.9)
        raise Unreachable("gateway timeout")


class Refuses(GoodProvider):
    """Answers every create with the same no."""

    def __init__(self, cloud: Cloud, error: ProviderError) -> None:
        super().__init__(cloud)
        self.error = error

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.cloud.calls["create"] += 1
        raise self.error


class FullProvider(Refuses):
    """Has no machine free."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud, NoCapacity("the zone is full"))


class AtQuota(Refuses):
    """The account has all that it may have."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud, QuotaReached("6 of 6 vCPU"))


class WrongStack(Refuses):
    """The image is not there."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud, Rejected("no such image"))


class ThrottlesFirst(GoodProvider):
    """Throttles the first creates."""

    def __init__(self, cloud: Cloud, times: int, retry_after: float) -> None:
        super().__init__(cloud)
        self.times = times
        self.retry_after = retry_after

    async def create(self, spec: MachineSpec) -> MachineStatus:
        if self.cloud.calls["create"] < self.times:
            self.cloud.calls["create"] += 1
            raise Throttled("rate exceeded", self.retry_after)
        return await super().create(spec)


class HasRates(GoodProvider):
    """Publishes its rates, and writes down when it was called."""

    def __init__(self, cloud: Cloud, rates: Mapping[Action, Rate]) -> None:
        super().__init__(cloud)
        self.rates = rates
        self.created_at: list[float] = []

    async def create(self, spec: MachineSpec) -> MachineStatus:
        self.created_at.append(self.cloud.clock.now())
        return await super().create(spec)


class Buggy(GoodProvider):
    """Creates the machine, and then trips over its own feet."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await super().create(spec)
        raise KeyError("taskArn")


def spec(machine_id: str = "m-1", **environment: str) -> MachineSpec:
    """A machine that runs until it is stopped, unless the environment says otherwise."""
    return MachineSpec(machine_id, "image", (), environment, 1.0, 512, timedelta(hours=2))
