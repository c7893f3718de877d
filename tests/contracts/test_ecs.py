"""Machines at ECS keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineStatus
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.provider import Unreachable
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import AtFake, start
from tests.ecs.rates import Limits
from tests.ecs.tasks import Times
from tests.ecs.world import World

QUICK = Times(place=0.3, pull=0.3, boot=0.2, stop_timeout=2.0, deprovision=0.5)
"""A check's patience is half a minute, in which it starts several machines one after the other."""


class AtEcs(AtFake):
    """A deployment in a cluster. Calls are not limited: to keep to the limits is the fleet's part."""

    patience = 60.0
    separator = "/"

    def __init__(self, world: World | None = None, deployment: str = "calls") -> None:
        self.world = world or World(start=start, limits=Limits(enabled=False), times=QUICK)
        super().__init__(self.world, self.world.ecs, deployment)

    def neighbour(self) -> AtEcs:
        return AtEcs(self.world, "neighbour")


@pytest.fixture
def at_ecs() -> Iterator[AtEcs]:
    harness = AtEcs()
    yield harness
    assert harness.world.ecs.violations == []


@pytest.mark.parametrize("check", CHECKS)
def test_machines_at_ecs_keep_the_contract(check: str, at_ecs: AtEcs) -> None:
    at_ecs.run(CHECKS[check](at_ecs))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_a_new_task_is_missing_for_a_while(check: str, at_ecs: AtEcs) -> None:
    at_ecs.world.ecs.lag_seconds = 3
    at_ecs.run(CHECKS[check](at_ecs))


class TokensAtRandom(Place):
    """Asks with a new client token each time."""

    def token(self, machine_id: str, attempt: int) -> str:
        return secrets.token_hex(32)


class TakesAnyTask(Place):
    """Takes every task of the cluster for its own."""

    def machine_id(self, started_by: str) -> str:
        return started_by.partition("/")[2]


class StopsNothing(EcsProvider):
    async def stop(self, machine_id: str, grace: timedelta) -> None:
        return


class LosesExitCodes(EcsProvider):
    async def get(self, machine_id: str) -> MachineStatus | None:
        status = await super().get(machine_id)
        return status and replace(status, exit_code=None)


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("create_twice_gives_one_machine", {"place": TokensAtRandom}),
    ("concurrent_creates_of_one_id_give_one_machine", {"place": TokensAtRandom}),
    ("a_list_that_the_server_did_not_filter_has_no_strangers", {"place": TakesAnyTask}),
    ("a_machine_ends_at_its_deadline", {"late": timedelta(days=1)}),
    ("a_stopped_machine_is_gone_and_stopping_it_again_is_fine", {"kind": StopsNothing}),
    ("a_machine_that_ends_by_itself_is_seen_gone_with_its_exit_code", {"kind": LosesExitCodes}),
]


@pytest.mark.parametrize(("check", "broken"), BROKEN)
def test_a_broken_provider_is_caught(check: str, broken: dict[str, Any]) -> None:
    harness = AtEcs(World(start=start, limits=Limits(enabled=False), times=QUICK, **broken))
    with pytest.raises((AssertionError, Unreachable)):
        harness.run(CHECKS[check](harness))
