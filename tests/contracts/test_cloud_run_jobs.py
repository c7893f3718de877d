"""Machines at Cloud Run jobs keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
from dispatcher.machines.cloud_run_jobs.status import Execution
from dispatcher.machines.provider import ProviderError
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import AtFake, start
from tests.gcp.executions import Times
from tests.gcp.world import RunWorld

QUICK = Times(schedule=0.3, pull=0.3, finish=0.2)
"""A check's patience is half a minute, in which it starts several machines one after the other."""


class AtCloudRun(AtFake):
    """A deployment with one job."""

    patience = 60.0

    def __init__(self, world: RunWorld | None = None, deployment: str = "calls") -> None:
        self.world = world or RunWorld(start=start, times=QUICK)
        super().__init__(self.world, self.world.run_api, deployment)

    def neighbour(self) -> AtCloudRun:
        return AtCloudRun(self.world, "neighbour")


@pytest.fixture
def at_run() -> Iterator[AtCloudRun]:
    harness = AtCloudRun()
    yield harness
    assert harness.world.run_api.violations == []


@pytest.mark.parametrize("check", CHECKS)
def test_machines_at_cloud_run_keep_the_contract(check: str, at_run: AtCloudRun) -> None:
    at_run.run(CHECKS[check](at_run))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_a_new_execution_is_not_shown_for_a_while(check: str, at_run: AtCloudRun) -> None:
    at_run.world.run_api.lag_seconds = 3
    at_run.run(CHECKS[check](at_run))


class KeepsAll(CloudRunJobsProvider):
    """Cancels no second execution."""

    def _chosen(self, machine_id: str, executions: Sequence[Execution]) -> Execution:
        return executions[0]


class StopsNothing(CloudRunJobsProvider):
    async def stop(self, machine_id: str, grace: timedelta) -> None:
        return


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("concurrent_creates_of_one_id_give_one_machine", {"kind": KeepsAll}),
    ("a_stopped_machine_is_gone_and_stopping_it_again_is_fine", {"kind": StopsNothing}),
]


@pytest.mark.parametrize(("check", "broken"), BROKEN)
def test_a_broken_provider_is_caught(check: str, broken: dict[str, Any]) -> None:
    harness = AtCloudRun(RunWorld(start=start, times=QUICK, **broken))
    with pytest.raises((AssertionError, ProviderError)):
        harness.run(CHECKS[check](harness))
