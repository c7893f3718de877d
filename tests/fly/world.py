"""A deployment at the fake, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.fly.provider import FlyProvider
from dispatcher.machines.provider import MachineSpec
from tests.doubles import VirtualClock
from tests.fly.fake import FakeFly
from tests.fly.processes import Scripted, Start
from tests.fly.rates import Limits
from tests.fly.wire import InProcess

T = TypeVar("T")

IMAGE = "registry.fly.io/bots@sha256:" + "0" * 64


async def wanted(_placement: str, _provider: str) -> bool:
    """The machine is wanted as long as anybody asks for it."""
    return True


class World:
    """Some apps, a token of them, and providers as replicas of a dispatcher have them."""

    def __init__(
        self,
        apps: tuple[str, ...] = ("bots",),
        *,
        deployment: str = "calls",
        start: Start = Scripted,
        limits: Limits | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.apps = apps
        self.deployment = deployment
        self.fly = FakeFly(self.clock, start=start, limits=limits)
        for app in apps:
            self.fly.app(app)
        self.token = self.fly.token(*apps)

    def provider(self, **settings: Any) -> FlyProvider:
        """A new provider object, as a restarted dispatcher or another replica makes it."""
        given: dict[str, Any] = {
            "url": "http://fly.test",
            "tokens": FlyTokens.parse(self.token),
            "deployment": self.deployment,
            "apps": self.apps,
            "late": timedelta(0),
            "clock": self.clock,
            "transport": InProcess(self.fly),
        }
        return FlyProvider(**given | settings)

    def fleet(self, provider: FlyProvider | None = None) -> Fleet:
        return Fleet({"fly": provider or self.provider()}, self.clock)

    async def create(self, fleet: Fleet, machine_id: str, seconds: float = 30.0) -> MachineStatus:
        """A machine, through the fleet, within so many seconds."""
        return await fleet.create(spec(machine_id), (), self.clock.now() + seconds, wanted)

    def running(self) -> list[str]:
        """The ids of the machines whose program runs."""
        return [name.removeprefix(f"{self.deployment}-") for name in self.fly.running()]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(work)

    def spec(self, machine_id: str, **changes: Any) -> MachineSpec:
        return spec(machine_id, **changes)


def spec(machine_id: str = "m-1", **changes: Any) -> MachineSpec:
    given: dict[str, Any] = {
        "id": machine_id,
        "bot_file": "/app/bot.py",
        "arguments": ("--machine-id", machine_id),
        "environment": {"SWITCHBOARD_MACHINE_TOKEN": "token"},
        "cpu": 1,
        "memory_mb": 1024,
        "max_duration": timedelta(hours=1),
        "image": IMAGE,
    }
    return MachineSpec(**given | changes)
