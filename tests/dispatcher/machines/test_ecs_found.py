"""Machines are found at ECS: second tasks, tasks that are not shown yet, and one of thousands that ended."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import MachineProvider, Unreachable
from tests.ecs.fake import ACCOUNT, CLUSTER, REGION, FakeEcs, Refusal
from tests.ecs.tasks import Definition, Task, Times
from tests.ecs.world import World, spec
from tests.fly.processes import Exit, Scripted

NO_ROUTE = "Timeout waiting for network interface provisioning to complete."


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    assert made.ecs.violations == []


async def shown(provider: MachineProvider, machine_id: str = "m-1") -> MachineStatus:
    status = await provider.get(machine_id)
    assert status is not None
    return status


def add_ended(ecs: FakeEcs, number: int, started_by: str) -> None:
    """Add a task that has just ended."""
    arn = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{CLUSTER}/{number:032x}"
    now = ecs.clock.now()
    ecs.tasks[arn] = Task(
        arn=arn,
        request={"startedBy": started_by},
        definition_arn=f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/echo:1",
        definition=Definition(),
        kind="FARGATE",
        subnet="subnet-0000000a",
        zone="us-east-1a",
        clock=ecs.clock,
        created_at=now - 60,
        status="STOPPED",
        desired="STOPPED",
        stamps={"startedAt": now - 50, "stoppedAt": now},
        stop_code="EssentialContainerExited",
        exit_code=7,
    )


def test_another_replica_sees_the_second_task_of_a_machine(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]

    async def start() -> None:
        other = world.provider()
        creating = asyncio.ensure_future(world.provider().create(spec()))
        await world.clock.sleep(5)
        assert (await shown(other)).state is MachineState.requested
        await creating
        assert (await shown(other)).state is MachineState.started
        await other.stop("m-1", timedelta(0))
        await world.clock.sleep(60)
        assert world.running() == []

    world.run(start())
    assert len(world.ecs.tasks) == 2


def test_another_replica_sees_how_a_second_task_ended(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]
    world.ecs.start = lambda launch, clock: Scripted(launch, clock, 5, Exit(3))

    async def end() -> None:
        other = world.provider()
        creating = asyncio.ensure_future(world.provider().create(spec()))
        await world.clock.sleep(5)
        await shown(other)
        await creating
        await world.clock.sleep(60)
        status = await shown(other)
        assert (status.state, status.exit_code) == (MachineState.gone, 3)

    world.run(end())


def test_a_machine_is_not_gone_while_its_second_task_is_not_shown_yet(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]
    world.ecs.times = Times(place=3, pull=4, boot=1)
    world.ecs.lag_seconds = 6

    async def start() -> None:
        provider = world.provider()
        creating = asyncio.ensure_future(provider.create(spec()))
        while len(world.ecs.tasks) < 2:
            await world.clock.sleep(0.5)
        assert (await shown(provider)).state is MachineState.requested
        await creating

    world.run(start())


def test_a_task_that_is_not_shown_yet_is_stopped(world: World) -> None:
    world.ecs.lag_seconds = 20

    async def stop() -> None:
        provider = world.provider()
        await provider.create(spec(answer_by=world.clock.now() + 1))
        await provider.stop("m-1", timedelta(0))
        await world.clock.sleep(120)

    world.run(stop())
    (task,) = world.ecs.tasks.values()
    assert task.stop_code == "UserInitiated"
    assert world.running() == []


def test_stop_is_unreachable_when_ecs_does_not_know_a_new_task_at_all(world: World) -> None:
    world.ecs.lag_seconds = 20
    unknown = Refusal("InvalidParameterException", "The referenced task was not found.")

    async def stop() -> None:
        provider = world.provider()
        await provider.create(spec(answer_by=world.clock.now() + 1))
        world.ecs.refusals["StopTask"] = [unknown]
        with pytest.raises(Unreachable, match="does not know it yet"):
            await provider.stop("m-1", timedelta(0))
        await provider.stop("m-1", timedelta(0))

    world.run(stop())
    assert world.ecs.count("StopTask") == 2


def test_fleet_finds_one_of_thousands_of_ended_tasks(world: World) -> None:
    world.ecs.validates = False
    world.ecs.latency = 0.1
    for number in range(8000):
        add_ended(world.ecs, number, f"calls/m-{number}" if number % 2 else f"other/m-{number}")

    async def look() -> None:
        fleet = world.fleet()
        with pytest.raises(Unreachable):
            await fleet.get("ecs", "m-7999")
        await world.clock.sleep(5)
        status = await fleet.get("ecs", "m-7999")
        assert status is not None
        assert status.exit_code == 7
        assert await fleet.get("ecs", "m-7998") is None, "another deployment's"
        before = world.ecs.count("DescribeTasks")
        add_ended(world.ecs, 8001, "calls/m-8001")
        await world.clock.sleep(1)
        later = await fleet.get("ecs", "m-8001")
        assert later is not None, "a later search learns what has ended since"
        assert world.ecs.count("DescribeTasks") - before <= 2, "known tasks are not described again"
        await fleet.close()

    world.run(look())


def test_one_search_for_ended_tasks_serves_all_who_wait(world: World) -> None:
    world.ecs.latency = 0.1
    for number in range(300):
        add_ended(world.ecs, number, f"calls/m-{number}")

    async def look() -> None:
        provider = world.provider()
        looking = [asyncio.ensure_future(provider.get(f"m-{number}")) for number in range(50)]
        for one in looking:
            assert (await one) is not None
        searches = [body for _, body in world.ecs.calls if body.get("desiredStatus") == "STOPPED"]
        assert len(searches) <= 6, "three pages a search"
        await provider.close()

    world.run(look())


def test_ended_tasks_that_ecs_has_forgotten_are_forgotten(world: World) -> None:
    async def look() -> None:
        provider = world.provider()
        add_ended(world.ecs, 1, "calls/m-1")
        assert (await shown(provider)).exit_code == 7
        await world.clock.sleep(3700)
        add_ended(world.ecs, 2, "calls/m-2")
        assert (await shown(provider, "m-2")).exit_code == 7
        before = world.ecs.count("DescribeTasks")
        assert await provider.get("m-1") is None
        assert world.ecs.count("DescribeTasks") == before
        await provider.close()

    world.run(look())


def test_a_search_that_fails_is_told_and_the_next_one_works(world: World) -> None:
    async def look() -> None:
        provider = world.provider()
        add_ended(world.ecs, 1, "calls/m-1")
        failing = Refusal("ServerException", "Service is unavailable", 503)
        original = world.ecs._list_tasks

        def once(body: dict[str, Any]) -> dict[str, Any]:
            if body.get("desiredStatus") == "STOPPED":
                world.ecs._list_tasks = original
                raise failing
            return original(body)

        world.ecs._list_tasks = once
        with pytest.raises(Unreachable):
            await provider.get("m-1")
        assert (await shown(provider)).exit_code == 7
        await provider.close()

    world.run(look())
