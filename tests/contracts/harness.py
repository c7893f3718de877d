"""The suite's view of a provider under test: one small class per provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.provider import MachineProvider, MachineSpec, Settles

T = TypeVar("T")


class Harness(ABC):
    """A provider under test, and the truth about what runs behind it."""

    patience: float = 30.0
    """Seconds that anything here may take."""
    deadline_kept_by: Literal["provider", "bot", "reaper"]
    """The part that ends a machine at its deadline. The first two do it while the dispatcher is down."""
    tells_exit_codes: bool = True
    """True if the provider knows how a machine ended."""
    log_is_elsewhere: bool = False
    """True if the provider says where a log is, and cannot read it itself."""

    reads_endless_lines: bool = True
    """False if the log of one endless line may be unknown: the engine searches for its beginning."""

    @abstractmethod
    def provider(self) -> MachineProvider:
        """A new provider object for the same deployment, as a restarted dispatcher makes it."""

    @abstractmethod
    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        """A machine that runs until it is stopped; or ends soon with that status; or has a deadline (s)."""

    @abstractmethod
    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        """A machine that prints `unit` again and again, as fast as it can, until it is stopped."""

    @abstractmethod
    def hostile(self, machine_id: str) -> MachineSpec:
        """A machine whose bot does what it can: `hostile.py`, or what stands for it in a fake."""

    @abstractmethod
    async def harms(self, machine_id: str) -> bool:
        """True while something that a hostile machine does is there, found out without the provider."""

    @abstractmethod
    async def running(self) -> list[str]:
        """The ids of the machines that really run, found out without the provider. Twice: two machines."""

    @abstractmethod
    def neighbour(self) -> Harness:
        """Another deployment behind the same server, with machines of its own."""

    @abstractmethod
    def filtering_nothing(self) -> AbstractContextManager[object]:
        """Until it is left, the server ignores the filters of a list."""

    @abstractmethod
    def answering(self, asked: str, shown: str) -> AbstractContextManager[object]:
        """Until it is left, the server shows another machine of this deployment when asked for this one."""

    @abstractmethod
    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end."""

    @abstractmethod
    def now(self) -> float: ...

    @abstractmethod
    async def sleep(self, seconds: float) -> None: ...

    async def until(self, what: str, read: Callable[[], Awaitable[T]], reached: Callable[[T], bool]) -> T:
        """Read until it is as it must be; fail with `what` and what was read last."""
        deadline = self.now() + self.patience
        while not reached(found := await read()):
            assert self.now() < deadline, f"{what}; found: {found}"
            await self.sleep(0.05)
        return found

    async def look_up(self, provider: MachineProvider, machine_id: str) -> MachineStatus | None:
        """Return the provider's word on a machine once a `None` is to be believed."""
        settling = provider.settling.total_seconds() if isinstance(provider, Settles) else 0.0
        settled = self.now() + settling
        while True:
            asked = self.now()
            status = await provider.get(machine_id)
            if status is not None or asked >= settled:
                return status
            await self.sleep(0.05)
