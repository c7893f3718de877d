"""Deployments at the fakes, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.cloud_run_jobs.client import RATES as RUN_RATES
from dispatcher.machines.cloud_run_jobs.client import RunApi
from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
from dispatcher.machines.cloud_run_jobs.request import Place as RunPlace
from dispatcher.machines.compute_engine.client import RATES, ComputeApi
from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
from dispatcher.machines.compute_engine.request import Place
from dispatcher.machines.fleet import Fleet
from dispatcher.machines.google.api import GoogleApi
from dispatcher.machines.provider import MachineSpec
from tests.doubles import VirtualClock
from tests.fly.wire import InProcess
from tests.fly.world import wanted
from tests.gcp.engine import PROJECT, ZONES, FakeEngine
from tests.gcp.run import REGION, FakeRun
from tests.gcp.server import TOKEN

T = TypeVar("T")


class GoodToken:
    """Gives a token that the fakes take."""

    async def token(self, refused: str = "") -> str:
        return TOKEN


class EngineWorld:
    """A project of Compute Engine, and providers as replicas of a dispatcher have them."""

    def __init__(
        self,
        *,
        deployment: str = "calls",
        kind: type[ComputeEngineProvider] = ComputeEngineProvider,
        place: type[Place] = Place,
        **fake: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.deployment = deployment
        self.kind = kind
        self.place = place
        self.engine = FakeEngine(self.clock, **fake)

    def provider(self, **place: Any) -> ComputeEngineProvider:
        """A new provider object, as a restarted dispatcher or another replica makes it."""
        api = GoogleApi(
            "Compute Engine",
            "http://compute.test/compute/v1",
            GoodToken(),
            self.clock,
            RATES,
            InProcess(self.engine),
        )
        given: dict[str, Any] = {
            "deployment": self.deployment,
            "project": PROJECT,
            "zones": ZONES[:2],
            "templates": {"echo": "echo-1"},
            "late": timedelta(0),
        }
        return self.kind(ComputeApi(api, PROJECT), self.place(**given | place), self.clock)

    def fleet(self, provider: ComputeEngineProvider | None = None) -> Fleet:
        return Fleet({"vms": provider or self.provider()}, self.clock)

    async def create(self, fleet: Fleet, machine_id: str, seconds: float = 120.0) -> MachineStatus:
        """A machine, through the fleet, within so many seconds."""
        return await fleet.create(spec(machine_id), (), self.clock.now() + seconds, wanted)

    def running(self) -> list[str]:
        """The ids of the machines whose bot runs."""
        return [name.removeprefix(f"{self.deployment}-") for name in self.engine.running()]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.clock.run(work)

    def spec(self, machine_id: str, **changes: Any) -> MachineSpec:
        return spec(machine_id, **changes)


class RunWorld:
    """A project and region of Cloud Run, and providers as replicas of a dispatcher have them."""

    def __init__(
        self,
        *,
        deployment: str = "calls",
        kind: type[CloudRunJobsProvider] = CloudRunJobsProvider,
        **fake: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.deployment = deployment
        self.kind = kind
        self.run_api = FakeRun(self.clock, **fake)

    def provider(self, **place: Any) -> CloudRunJobsProvider:
        """A new provider object, as a restarted dispatcher or another replica makes it."""
        tokens, transport = GoodToken(), InProcess(self.run_api)
        api = GoogleApi("Cloud Run", "http://run.test/v2", tokens, self.clock, RUN_RATES, transport)
        given: dict[str, Any] = {
            "deployment": self.deployment,
            "project": PROJECT,
            "region": REGION,
            "jobs": {"echo": "echo"},
            "late": timedelta(0),
        }
        return self.kind(RunApi(api), RunPlace(**given | place), self.clock)

    def fleet(self, provider: CloudRunJobsProvider | None = None) -> Fleet:
        return Fleet({"jobs": provider or self.provider()}, self.clock)

    async def create(self, fleet: Fleet, machine_id: str, seconds: float = 120.0) -> MachineStatus:
        """A machine, through the fleet, within so many seconds."""
        return await fleet.create(spec(machine_id), (), self.clock.now() + seconds, wanted)

    def running(self) -> list[str]:
        """The ids of the machines whose container runs."""
        return [name.removeprefix(f"{self.deployment}-") for name in self.run_api.running()]

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
