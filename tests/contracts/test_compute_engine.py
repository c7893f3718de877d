"""Machines at Compute Engine keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
from dispatcher.machines.compute_engine.request import Place
from dispatcher.machines.provider import ProviderError
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import AtFake, start
from tests.gcp.instances import Times
from tests.gcp.world import EngineWorld

QUICK = Times(provision=0.3, stage=0.3, boot=0.2, stop_timeout=2.0, power_off=0.3, delete=0.3, stockout=0.5)
"""A check's patience is half a minute, in which it starts several machines one after the other."""


class AtComputeEngine(AtFake):
    """A deployment in two zones."""

    patience = 60.0

    def __init__(self, world: EngineWorld | None = None, deployment: str = "calls") -> None:
        self.world = world or EngineWorld(start=start, times=QUICK)
        super().__init__(self.world, self.world.engine, deployment)

    def neighbour(self) -> AtComputeEngine:
        return AtComputeEngine(self.world, "neighbour")


@pytest.fixture
def at_engine() -> Iterator[AtComputeEngine]:
    harness = AtComputeEngine()
    yield harness
    assert harness.world.engine.violations == []


@pytest.mark.parametrize("check", CHECKS)
def test_machines_at_compute_engine_keep_the_contract(check: str, at_engine: AtComputeEngine) -> None:
    at_engine.run(CHECKS[check](at_engine))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_a_new_vm_is_not_shown_for_a_while(check: str, at_engine: AtComputeEngine) -> None:
    at_engine.world.engine.lag_seconds = 3
    at_engine.run(CHECKS[check](at_engine))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_the_first_zone_is_full(check: str, at_engine: AtComputeEngine) -> None:
    at_engine.world.engine.room["europe-west4-a"] = 1
    at_engine.run(CHECKS[check](at_engine))


class NamesAtRandom(Place):
    """Names each VM anew."""

    count = 0

    def name(self, machine_id: str) -> str:
        type(self).count += 1
        return f"{self.deployment}-{machine_id}-{type(self).count}"


class StopsNothing(ComputeEngineProvider):
    async def stop(self, machine_id: str, grace: timedelta) -> None:
        return


class LosesExitCodes(ComputeEngineProvider):
    async def get(self, machine_id: str) -> MachineStatus | None:
        status = await super().get(machine_id)
        return status and replace(status, exit_code=None)


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("create_twice_gives_one_machine", {"place": NamesAtRandom}),
    ("a_stopped_machine_is_gone_and_stopping_it_again_is_fine", {"kind": StopsNothing}),
    ("a_machine_that_ends_by_itself_is_seen_gone_with_its_exit_code", {"kind": LosesExitCodes}),
]


@pytest.mark.parametrize(("check", "broken"), BROKEN)
def test_a_broken_provider_is_caught(check: str, broken: dict[str, Any]) -> None:
    harness = AtComputeEngine(EngineWorld(start=start, times=QUICK, **broken))
    with pytest.raises((AssertionError, ProviderError)):
        harness.run(CHECKS[check](harness))
