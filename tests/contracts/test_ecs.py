"""Machines at ECS keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineStatus
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.provider import MachineSpec, Unreachable
from tests.contracts.conformance import CHECKS
from tests.contracts.harness import Harness
from tests.ecs.rates import Limits
from tests.ecs.tasks import Times
from tests.ecs.world import World, spec
from tests.fly.processes import Exit, Launch, Scripted

T = TypeVar("T")

RUN, EXIT, STAYS = "run", "exit", "stays"

QUICK = Times(place=0.3, pull=0.3, boot=0.2, stop_timeout=2.0, deprovision=0.5)
"""A check's patience is half a minute, in which it starts several machines one after the other."""


def start(launch: Launch, clock: Clock) -> Scripted:
    word, value = launch.command[-2:]
    if word == STAYS:
        return Scripted(launch, clock, ignores_term=True)
    return Scripted(launch, clock) if word == RUN else Scripted(launch, clock, 1, Exit(int(value)))


class AtEcs(Harness):
    """A deployment in a cluster. Calls are not limited: to keep to the limits is the fleet's part."""

    patience = 60.0
    deadline_kept_by = "provider"
    log_is_elsewhere = True

    def __init__(self, world: World | None = None, deployment: str = "calls") -> None:
        self.world = world or World(start=start, limits=Limits(enabled=False), times=QUICK)
        self.deployment = deployment

    def provider(self) -> EcsProvider:
        return self.world.provider(deployment=self.deployment)

    def neighbour(self) -> AtEcs:
        return AtEcs(self.world, "neighbour")

    @contextmanager
    def filtering_nothing(self) -> Iterator[None]:
        self.world.ecs.filters = False
        yield
        self.world.ecs.filters = True

    @contextmanager
    def answering(self, asked: str, shown: str) -> Iterator[None]:
        self.world.ecs.mixed_up[f"{self.deployment}/{asked}"] = f"{self.deployment}/{shown}"
        yield
        self.world.ecs.mixed_up.clear()

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        arguments = (RUN, "") if exits is None else (EXIT, str(exits))
        seconds = 3600 if deadline is None else deadline
        return spec(machine_id, arguments=arguments, max_duration=timedelta(seconds=seconds))

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        """The fake's machines print nothing: the ECS API has no log, whatever a machine does."""
        return self.spec(machine_id)

    def hostile(self, machine_id: str) -> MachineSpec:
        """The fake's machines have no files and no children; nothing but SIGKILL ends this one."""
        return spec(machine_id, arguments=(STAYS, ""))

    async def harms(self, machine_id: str) -> bool:
        return machine_id in await self.running()

    async def running(self) -> list[str]:
        prefix = f"{self.deployment}/"
        return [name.removeprefix(prefix) for name in self.world.ecs.running() if name.startswith(prefix)]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.world.run(work)

    def now(self) -> float:
        return self.world.clock.now()

    async def sleep(self, seconds: float) -> None:
        await self.world.clock.sleep(seconds)


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
