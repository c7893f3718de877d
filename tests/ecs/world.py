"""A deployment at the fake, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.connection import Connection, Credentials
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.provider import MachineSpec
from tests.doubles import VirtualClock
from tests.ecs.fake import CLUSTER, GROUP, REGION, SUBNETS, FakeEcs
from tests.fly.wire import InProcess
from tests.fly.world import wanted

T = TypeVar("T")

KEY = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
"""The example key of AWS's own documentation."""


class World:
    """A cluster, and providers as replicas of a dispatcher have them."""

    def __init__(
        self,
        *,
        deployment: str = "calls",
        kind: type[EcsProvider] = EcsProvider,
        place: type[Place] = Place,
        late: timedelta = timedelta(0),
        **fake: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.deployment = deployment
        self.kind = kind
        self.place = place
        self.late = late
        self.ecs = FakeEcs(clock=self.clock, **fake)

    def provider(self, credentials: Credentials = KEY, **place: Any) -> EcsProvider:
        """A new provider object, as a restarted dispatcher or another replica makes it."""
        connection = Connection(
            region=REGION,
            clock=self.clock,
            url="http://ecs.test",
            credentials=credentials,
            transport=InProcess(self.ecs),
        )
        api = EcsApi(connection, CLUSTER, self.clock)
        given: dict[str, Any] = {
            "deployment": self.deployment,
            "cluster": CLUSTER,
            "subnets": tuple(SUBNETS),
            "security_groups": (GROUP,),
            "task_definitions": {"echo": "echo:1"},
            "late": self.late,
        }
        return self.kind(api, self.place(**given | place), self.clock)

    def fleet(self, provider: EcsProvider | None = None) -> Fleet:
        return Fleet({"ecs": provider or self.provider()}, self.clock)

    async def create(self, fleet: Fleet, machine_id: str, seconds: float = 120.0) -> MachineStatus:
        """A machine, through the fleet, within so many seconds."""
        return await fleet.create(spec(machine_id), (), self.clock.now() + seconds, wanted)

    def running(self) -> list[str]:
        """The ids of the machines whose program runs."""
        return [name.removeprefix(f"{self.deployment}/") for name in self.ecs.running()]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(work)

    def spec(self, machine_id: str, **changes: Any) -> MachineSpec:
        return spec(machine_id, **changes)


def spec(machine_id: str = "m-1", **changes: Any) -> MachineSpec:
    given: dict[str, Any] = {
        "id": machine_id,
        "agent": "echo",
        "bot_file": "/app/bot.py",
        "arguments": ("--machine-id", machine_id),
        "environment": {"SWITCHBOARD_MACHINE_TOKEN": "token"},
        "cpu": 1,
        "memory_mb": 2048,
        "max_duration": timedelta(hours=1),
    }
    return MachineSpec(**given | changes)
