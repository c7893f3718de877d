"""The suite's views of what is in this process: a machines API in memory, and machines of scripted kinds."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar, Protocol, TypeVar

from dispatcher.clock import Clock
from dispatcher.machines.provider import MachineSpec
from tests.contracts.harness import Harness
from tests.doubles import EXIT_CODE, VirtualClock, spec
from tests.fly.processes import Exit, Launch, Scripted

T = TypeVar("T")

RUN, EXIT, STAYS = "run", "exit", "stays"


class MachinesApi(Protocol):
    """A machines API in memory, with the faults that the suite asks for."""

    filters: bool
    """False if a list ignores its filter."""
    mixed_up: dict[str, str]
    """Name that is asked for → name of the instance that is shown."""


class OfVariables(Harness):
    """A provider whose machines do what their variables say."""

    def ends(self, code: int) -> dict[str, str]:
        """Return the variables of a machine that ends by itself with this status."""
        return {EXIT_CODE: str(code)}

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        made = spec(machine_id, **({} if exits is None else self.ends(exits)))
        return made if deadline is None else replace(made, max_duration=timedelta(seconds=deadline))

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        return spec(machine_id)

    def hostile(self, machine_id: str) -> MachineSpec:
        return spec(machine_id)

    async def harms(self, machine_id: str) -> bool:
        return machine_id in await self.running()


class OnVirtualClock(Harness):
    """One deployment's view of an API in memory, on a clock that runs by itself."""

    deadline_kept_by = "provider"
    separator: ClassVar[str] = "-"
    """Between a deployment and a machine's id, in the name under which the API knows the machine."""

    def __init__(self, api: MachinesApi, clock: VirtualClock, deployment: str) -> None:
        self.clock = clock
        self.deployment = deployment
        self._api = api

    @property
    def prefix(self) -> str:
        """The deployment, as names begin with it."""
        return f"{self.deployment}{self.separator}"

    @contextmanager
    def filtering_nothing(self) -> Iterator[None]:
        self._api.filters = False
        yield
        self._api.filters = True

    @contextmanager
    def answering(self, asked: str, shown: str) -> Iterator[None]:
        self._api.mixed_up[f"{self.prefix}{asked}"] = f"{self.prefix}{shown}"
        yield
        self._api.mixed_up.clear()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(work)

    def now(self) -> float:
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)


class InMemory(OnVirtualClock, OfVariables):
    """One deployment's view of an API in memory whose machines do what their variables say.

    Args:
        ends_by: Variables of a machine that ends by itself: after so many seconds, with this status.
    """

    def __init__(
        self, api: MachinesApi, clock: VirtualClock, ends_by: tuple[str, str], deployment: str = "sb"
    ) -> None:
        super().__init__(api, clock, deployment)
        self._ends_by = ends_by

    def ends(self, code: int) -> dict[str, str]:
        after, with_status = self._ends_by
        return {after: "1", with_status: str(code)}

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        return spec(machine_id, PRINTS=unit)

    def hostile(self, machine_id: str) -> MachineSpec:
        return spec(machine_id, HOSTILE="1")


def start(launch: Launch, clock: Clock) -> Scripted:
    """Start what a machine's arguments say, in a fake that takes a `Start`."""
    word, value = launch.command[-2:]
    if word == STAYS:
        return Scripted(launch, clock, ignores_term=True)
    return Scripted(launch, clock) if word == RUN else Scripted(launch, clock, 1, Exit(int(value)))


class FakeApi(MachinesApi, Protocol):
    """A vendor's API in memory, whose machines are processes of `start`."""

    def running(self) -> list[str]:
        """Return the names of the machines whose program runs."""
        ...


class FakeWorld(Protocol):
    """A fake with its clock, and providers at it."""

    clock: VirtualClock

    def provider(self, **settings: Any) -> Any:
        """Return a new provider object, as a restarted dispatcher makes it."""
        ...

    def spec(self, machine_id: str, **changes: Any) -> MachineSpec:
        """Return a machine as this vendor takes it."""
        ...


class AtFake(OnVirtualClock):
    """A deployment at a vendor's fake. Its machines do what their arguments say; nobody reads a log there."""

    log_is_elsewhere = True

    def __init__(self, world: FakeWorld, api: FakeApi, deployment: str) -> None:
        super().__init__(api, world.clock, deployment)
        self._world = world
        self._fake = api

    def provider(self) -> Any:
        return self._world.provider(deployment=self.deployment)

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        arguments = (RUN, "") if exits is None else (EXIT, str(exits))
        seconds = 3600 if deadline is None else deadline
        return self._world.spec(machine_id, arguments=arguments, max_duration=timedelta(seconds=seconds))

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        """The fake's machines print nothing: a machines API has no log, whatever a machine does."""
        return self.spec(machine_id)

    def hostile(self, machine_id: str) -> MachineSpec:
        """The fake's machines have no files and no children; nothing but SIGKILL ends this one."""
        return self._world.spec(machine_id, arguments=(STAYS, ""))

    async def harms(self, machine_id: str) -> bool:
        return machine_id in await self.running()

    async def running(self) -> list[str]:
        return [
            name.removeprefix(self.prefix) for name in self._fake.running() if name.startswith(self.prefix)
        ]
