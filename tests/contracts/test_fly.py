"""Machines at Fly keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.conformance import CHECKS
from tests.contracts.memory import AtFake, start
from tests.fly.rates import Limits
from tests.fly.world import World


class AtFly(AtFake):
    """A deployment with two apps. Calls are not limited: to keep to the limits is the fleet's part."""

    def __init__(self, world: World | None = None, deployment: str = "calls") -> None:
        self.world = world or World(("bots-1", "bots-2"), start=start, limits=Limits(None))
        super().__init__(self.world, self.world.fly, deployment)

    def neighbour(self) -> AtFly:
        return AtFly(self.world, "neighbour")


@pytest.fixture
def at_fly() -> Iterator[AtFly]:
    harness = AtFly()
    yield harness
    assert harness.world.fly.violations == []


@pytest.mark.parametrize("check", CHECKS)
def test_machines_at_fly_keep_the_contract(check: str, at_fly: AtFly) -> None:
    at_fly.run(CHECKS[check](at_fly))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_a_new_machine_is_not_listed_for_a_while(check: str, at_fly: AtFly) -> None:
    at_fly.world.fly.list_lag_seconds = 3
    at_fly.run(CHECKS[check](at_fly))
