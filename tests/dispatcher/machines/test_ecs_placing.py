"""RunTask's lost answers, and its turns at the rate limit while zones are full."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.domain.model import MachineState
from dispatcher.machines.fleet import NoMachine
from dispatcher.machines.provider import NoCapacity, Rejected, Unreachable
from tests.ecs.fake import SUBNETS, FakeEcs, Refusal
from tests.ecs.world import World, spec

NO_SPOT = {("FARGATE_SPOT", zone): 0 for zone in SUBNETS.values()}
NOWHERE = {("FARGATE", zone): 0 for zone in SUBNETS.values()}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.ecs.violations == []


def lose_then_refuse(ecs: FakeEcs, *refusals: Refusal) -> None:
    """Do the next RunTask, lose its answer, and refuse those that follow."""
    original = ecs._run_task

    def once(body: dict[str, Any]) -> dict[str, Any]:
        ecs._run_task = original
        ecs.lost["RunTask"] = 1
        ecs.refusals["RunTask"] = list(refusals)
        return original(body)

    ecs._run_task = once


def name_another(ecs: FakeEcs, arn: str) -> None:
    """Refuse each RunTask for the token of this task."""

    def refuse(body: dict[str, Any]) -> dict[str, Any]:
        raise Refusal("ConflictException", "The token is in use.", resourceIds=[arn])

    ecs._run_task = refuse


@pytest.mark.parametrize(
    "refusals",
    [
        [Refusal("ThrottlingException", "Rate exceeded")] * 2,
        [Refusal("AccessDeniedException", "User is not authorized to perform: ecs:RunTask on resource: *")],
        [Refusal("ClientException", "Capacity is unavailable at this time. Please try again later")],
        [Refusal("ClientException", "You've reached the limit on the number of vCPUs you can run")],
    ],
    ids=["throttled", "rejected", "no capacity", "quota reached"],
)
def test_a_refusal_after_a_lost_answer_is_unreachable(world: World, refusals: list[Refusal]) -> None:
    lose_then_refuse(world.ecs, *refusals)
    with pytest.raises(Unreachable):
        world.run(world.provider().create(spec()))
    assert len(world.ecs.tasks) == 1


def test_fleet_finds_the_task_when_the_repeated_call_is_denied(world: World) -> None:
    denied = Refusal("AccessDeniedException", "User is not authorized to perform: ecs:RunTask on resource: *")
    lose_then_refuse(world.ecs, denied)

    async def start() -> None:
        assert (await world.create(world.fleet(), "m-1")).id == "m-1"

    world.run(start())
    assert len(world.ecs.tasks) == 1


def test_a_throttled_repeat_is_made_again(world: World) -> None:
    lose_then_refuse(world.ecs, Refusal("ThrottlingException", "Rate exceeded"))
    status = world.run(world.provider().create(spec()))
    assert status.state is MachineState.started
    assert len(world.ecs.tasks) == 1


def test_a_conflict_gives_the_task_that_cannot_be_looked_at_yet(world: World) -> None:
    async def twice() -> None:
        await world.provider().create(spec())
        other = spec(environment={"SWITCHBOARD_MACHINE_TOKEN": "another"})
        world.ecs.refusals["DescribeTasks"] = [Refusal("ServerException", "Service is unavailable", 503)]
        assert (await world.provider().create(other)).state is MachineState.started

    world.run(twice())
    assert len(world.ecs.tasks) == 1


def test_a_conflict_that_names_anothers_task_is_rejected(world: World) -> None:
    async def start() -> None:
        await world.provider().create(spec("m-other"))
        name_another(world.ecs, next(iter(world.ecs.tasks)))
        with pytest.raises(Rejected, match=r"the client token of calls/m-1 is .*which is calls/m-other's"):
            await world.provider().create(spec())

    world.run(start())


def test_full_spot_capacity_is_not_asked_for_again_at_each_create(world: World) -> None:
    world.ecs.free = dict(NO_SPOT)

    async def start() -> None:
        provider = world.provider(spot=True)
        await provider.create(spec("m-0"))
        assert world.ecs.count("RunTask") == 5, "Spot in all zones, in each, and on-demand"
        await asyncio.gather(*(provider.create(spec(f"m-{number}")) for number in range(1, 4)))
        assert world.ecs.count("RunTask") == 8, "on-demand alone, as Spot was full just now"
        await world.clock.sleep(31)
        before = world.ecs.count("RunTask")
        world.ecs.free.clear()
        await provider.create(spec("m-9"))
        assert world.ecs.count("RunTask") == before + 1

    world.run(start())
    kinds = [task.kind for task in world.ecs.tasks.values()]
    assert kinds == ["FARGATE"] * 4 + ["FARGATE_SPOT"]


def test_creates_at_once_keep_to_the_published_rates_while_spot_is_full(world: World) -> None:
    world.ecs.free = dict(NO_SPOT)
    world.ecs.latency = 0.1

    async def start() -> None:
        fleet = world.fleet(world.provider(spot=True))
        creating = [asyncio.ensure_future(world.create(fleet, f"m-{number}", 300)) for number in range(60)]
        for one in creating:
            await one

    world.run(start())
    assert len(world.ecs.tasks) == 60
    assert world.ecs.throttled == 0


def test_no_other_zone_is_asked_after_the_answer_is_due(world: World) -> None:
    world.ecs.free = dict(NOWHERE)
    world.ecs.latency = 3

    async def start() -> None:
        due = world.clock.now() + 5
        with pytest.raises(NoCapacity, match="no time is left"):
            await world.provider().create(spec(answer_by=due))

    world.run(start())
    assert world.ecs.count("RunTask") == 2


def test_one_call_tells_that_there_is_capacity_again(world: World) -> None:
    world.ecs.free = dict(NOWHERE)

    async def start() -> None:
        fleet = world.fleet()
        with pytest.raises(NoMachine):
            await world.create(fleet, "m-1")
        before = world.ecs.count("RunTask")
        with pytest.raises(NoMachine, match="Capacity is unavailable"):
            await world.create(fleet, "m-2")
        assert world.ecs.count("RunTask") == before + 1
        world.ecs.free.clear()
        await world.create(fleet, "m-3")
        assert world.ecs.count("RunTask") == before + 2

    world.run(start())
