"""The suite's view of a cloud in memory, whoever's it is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from dispatcher.machines.provider import MachineSpec
from tests.contracts.harness import Harness
from tests.doubles import VirtualClock, spec

T = TypeVar("T")


class MachinesApi(Protocol):
    """A machines API in memory, with the faults that the suite asks for."""

    filters: bool
    """False if a list ignores its filter."""
    mixed_up: dict[str, str]
    """Name that is asked for → name of the instance that is shown."""


class InMemory(Harness):
    """One deployment's view of an API in memory, on a clock that runs by itself.

    Args:
        ends_by: Variables of a machine that ends by itself: after so many seconds, with this status.
    """

    deadline_kept_by = "provider"

    def __init__(
        self, api: MachinesApi, clock: VirtualClock, ends_by: tuple[str, str], deployment: str = "sb"
    ) -> None:
        self.clock = clock
        self.deployment = deployment
        self._api = api
        self._ends_by = ends_by

    @abstractmethod
    async def running(self) -> list[str]: ...

    @contextmanager
    def filtering_nothing(self) -> Iterator[None]:
        self._api.filters = False
        yield
        self._api.filters = True

    @contextmanager
    def answering(self, asked: str, shown: str) -> Iterator[None]:
        self._api.mixed_up[f"{self.deployment}-{asked}"] = f"{self.deployment}-{shown}"
        yield
        self._api.mixed_up.clear()

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        after, code = self._ends_by
        made = spec(machine_id, **({} if exits is None else {after: "1", code: str(exits)}))
        return made if deadline is None else replace(made, max_duration=timedelta(seconds=deadline))

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        return spec(machine_id, PRINTS=unit)

    def hostile(self, machine_id: str) -> MachineSpec:
        return spec(machine_id, HOSTILE="1")

    async def harms(self, machine_id: str) -> bool:
        return machine_id in await self.running()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(work)

    def now(self) -> float:
        return self.clock.now()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
