"""The `ecs` provider at the fake of its API: capacity, lost answers, tasks that do not start, and words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineState
from dispatcher.machines.fleet import NoMachine
from dispatcher.machines.provider import (
    NoCapacity,
    QuotaReached,
    Rejected,
    Unreachable,
)
from tests.ecs.fake import NO_VCPUS, SUBNETS, FakeEcs, Refusal
from tests.ecs.rates import Limits
from tests.ecs.tasks import Definition, Times
from tests.ecs.world import World, spec
from tests.fly.processes import Exit, Launch, Scripted

NO_ROUTE = (
    "ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry "
    "auth from Amazon ECR: There is a connection issue between the task and Amazon ECR. context deadline "
    "exceeded"
)


@pytest.fixture
def world() -> Any:
    made = World()
    yield made
    assert made.ecs.violations == []


def requests(ecs: FakeEcs, name: str = "RunTask") -> list[dict[str, Any]]:
    return [body for called, body in ecs.calls if called == name]


def subnets_of(request: dict[str, Any]) -> list[str]:
    return request["networkConfiguration"]["awsvpcConfiguration"]["subnets"]


def test_run_task_has_what_the_settings_say(world: World) -> None:
    one = spec(
        environment={"SWITCHBOARD_MACHINE_TOKEN": "token"},
        agent_environment={"OPENAI_API_KEY": "sk-secret"},
        arguments=("--machine-id", "m-1", "--session-id", "s-1", "--body={}"),
        max_duration=timedelta(seconds=90),
    )
    status = world.run(world.provider(late=timedelta(seconds=30), platform_version="1.4.0").create(one))
    assert status.state is MachineState.started
    (request,) = requests(world.ecs)
    (container,) = request["overrides"]["containerOverrides"]
    assert container["name"] == "bot"
    assert container["command"][:3] == ["timeout", "--kill-after=10", "120"]
    assert container["command"][-2:] == ["--machine-id", "m-1"], "a session with a body goes over the channel"
    variables = {one["name"]: one["value"] for one in container["environment"]}
    assert variables["SWITCHBOARD_MACHINE_ID"] == "m-1"
    assert variables["SWITCHBOARD_MACHINE_TOKEN"] == "token"
    assert "OPENAI_API_KEY" not in variables, "it is a secret of the task definition"
    assert request["taskDefinition"] == "echo:1"
    assert request["startedBy"] == "calls/m-1"
    assert request["launchType"] == "FARGATE"
    assert request["platformVersion"] == "1.4.0"
    assert subnets_of(request) == list(SUBNETS)
    assert len(request["clientToken"]) == 64


@pytest.mark.parametrize(("propagates", "source"), [(True, "TASK_DEFINITION"), (False, None)])
def test_run_task_copies_the_definitions_tags_when_it_is_told_to(
    world: World, propagates: bool, source: str | None
) -> None:
    world.run(world.provider(propagate_tags=propagates).create(spec()))
    (request,) = requests(world.ecs)
    assert request.get("propagateTags") == source


def test_startup_is_told_by_the_stages_of_the_task(world: World) -> None:
    world.ecs.times = Times(place=8, pull=15, boot=3)
    status = world.run(world.provider().create(spec()))
    assert status.startup == pytest.approx({"place": 8, "pull": 15, "boot": 3})


def test_create_answers_by_its_deadline_when_the_task_starts_slowly(world: World) -> None:
    world.ecs.times = Times(pull=300)
    due = world.clock.now() + 20
    status = world.run(world.provider().create(spec(answer_by=due)))
    assert status.state is MachineState.requested
    assert due - 5 <= world.clock.now() <= due


def test_fleet_waits_for_a_slow_start_beyond_the_usual_limit(world: World) -> None:
    world.ecs.times = Times(place=15, pull=25, boot=3)

    async def start() -> None:
        status = await world.create(world.fleet(), "m-slow", seconds=120)
        assert status.state is MachineState.started

    world.run(start())
    assert world.ecs.count("RunTask") == 1


def test_fleet_is_answered_before_its_deadline_while_the_task_starts(world: World) -> None:
    world.ecs.times = Times(pull=600)

    async def start() -> None:
        began = world.clock.now()
        status = await world.create(world.fleet(), "m-late", seconds=50)
        assert status.state is MachineState.requested
        assert world.clock.now() - began <= 50

    world.run(start())


def test_a_full_zone_is_left_for_another(world: World) -> None:
    world.ecs.free = {("FARGATE", "us-east-1b"): 0, ("FARGATE", "us-east-1a"): 0}
    world.run(world.provider().create(spec()))
    (task,) = world.ecs.tasks.values()
    assert task.zone == "us-east-1c"
    asked = [subnets_of(one) for one in requests(world.ecs)]
    assert asked[0] == list(SUBNETS)
    assert all(len(one) == 1 for one in asked[1:])
    assert len({one["clientToken"] for one in requests(world.ecs)}) == 1


def test_no_capacity_in_any_zone_is_told(world: World) -> None:
    world.ecs.free = {("FARGATE", zone): 0 for zone in SUBNETS.values()}
    with pytest.raises(NoCapacity, match="Capacity is unavailable"):
        world.run(world.provider().create(spec()))
    assert world.ecs.tasks == {}


def test_spot_falls_back_to_on_demand(world: World) -> None:
    world.ecs.free = {("FARGATE_SPOT", zone): 0 for zone in SUBNETS.values()}
    world.run(world.provider(spot=True).create(spec()))
    (task,) = world.ecs.tasks.values()
    assert task.kind == "FARGATE"
    assert all("launchType" not in one for one in requests(world.ecs))


def test_spot_is_taken_where_there_is_some(world: World) -> None:
    world.run(world.provider(spot=True).create(spec()))
    (task,) = world.ecs.tasks.values()
    assert task.kind == "FARGATE_SPOT"


def test_a_spot_interruption_is_told(world: World) -> None:
    async def interrupted() -> str:
        provider = world.provider(spot=True)
        await provider.create(spec())
        world.ecs.interrupt_spot(next(iter(world.ecs.tasks.values())))
        await world.clock.sleep(60)
        status = await provider.get("m-1")
        assert status is not None
        assert status.state is MachineState.gone
        return status.output

    assert "AWS took the Spot capacity back" in world.run(interrupted())


def test_the_vcpu_quota_is_told_with_what_to_do(world: World) -> None:
    world.ecs.vcpus = 0
    with pytest.raises(
        QuotaReached, match=r"Fargate On-Demand vCPU resource count.*it is 6 in a new account"
    ):
        world.run(world.provider().create(spec()))
    assert world.ecs.count("RunTask") == 1, "other zones have the same quota"
    assert NO_VCPUS.startswith("You've reached")


def test_a_lost_answer_is_asked_for_again_with_its_token(world: World) -> None:
    world.ecs.lost["RunTask"] = 2
    status = world.run(world.provider().create(spec()))
    assert status.state is MachineState.started
    assert len(world.ecs.tasks) == 1
    assert len({one["clientToken"] for one in requests(world.ecs)}) == 1


def test_create_is_unreachable_when_every_answer_is_lost(world: World) -> None:
    world.ecs.lost["RunTask"] = 3
    with pytest.raises(Unreachable):
        world.run(world.provider().create(spec()))
    assert len(world.ecs.tasks) == 1


def test_fleet_finds_the_task_whose_answers_were_lost(world: World) -> None:
    world.ecs.lost["RunTask"] = 3

    async def start() -> None:
        status = await world.create(world.fleet(), "m-lost")
        assert status.id == "m-lost"

    world.run(start())
    assert len(world.ecs.tasks) == 1


def test_a_conflict_gives_the_task_that_it_names(world: World) -> None:
    async def twice() -> None:
        await world.provider().create(spec())
        # Another replica's machine token differs, and with it the request.
        other = spec(environment={"SWITCHBOARD_MACHINE_TOKEN": "another"})
        status = await world.provider().create(other)
        assert status.state is MachineState.started

    world.run(twice())
    assert len(world.ecs.tasks) == 1


def test_a_conflict_without_a_task_after_full_zones_means_no_capacity(world: World) -> None:
    world.ecs.free = {("FARGATE", zone): 0 for zone in SUBNETS.values()}
    conflict = Refusal("ConflictException", "The token is in use.", resourceIds=[])

    async def start() -> None:
        provider = world.provider()
        original = world.ecs._run_task

        def once(body: dict[str, Any]) -> dict[str, Any]:
            if world.ecs.count("RunTask") > 1:
                raise conflict
            return original(body)

        world.ecs._run_task = once
        await provider.create(spec())

    with pytest.raises(NoCapacity):
        world.run(start())


def test_a_second_task_starts_where_the_first_did_not(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]
    status = world.run(world.provider().create(spec()))
    assert status.state is MachineState.started
    first, second = world.ecs.tasks.values()
    assert first.subnet not in subnets_of(second.request)
    assert world.running() == ["m-1"]


def test_another_create_gets_the_second_task(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]

    async def twice() -> None:
        await world.provider().create(spec())
        status = await world.provider().create(spec())
        assert status.state is MachineState.started

    world.run(twice())
    assert len(world.ecs.tasks) == 2
    assert world.running() == ["m-1"]


def test_no_second_task_for_a_machine_that_was_stopped(world: World) -> None:
    world.ecs.not_starting = [NO_ROUTE]

    async def stopped() -> None:
        provider = world.provider()
        creating = asyncio.ensure_future(provider.create(spec()))
        await world.clock.sleep(5)
        await provider.stop("m-1", timedelta(0))
        await creating

    world.run(stopped())
    assert world.ecs.count("RunTask") == 1


def test_calls_are_held_back_by_the_published_rates(world: World) -> None:
    world.ecs.latency = 0.1

    async def start() -> None:
        fleet = world.fleet()
        creating = [asyncio.ensure_future(world.create(fleet, f"m-{number}", 300)) for number in range(150)]
        for one in creating:
            await one

    world.run(start())
    assert len(world.ecs.tasks) == 150
    assert world.ecs.throttled == 0


def test_an_agent_without_a_task_definition_is_rejected(world: World) -> None:
    with pytest.raises(Rejected, match="taskDefinitions has none for agent 'other'; it has: echo"):
        world.run(world.provider().create(spec(agent="other")))


def test_overrides_over_the_limit_are_rejected_in_words(world: World) -> None:
    long = spec(environment={"LONG": "x" * 9000})
    with pytest.raises(Rejected, match="ECS allows 8192"):
        world.run(world.provider().create(long))
    assert world.ecs.count("RunTask") == 0


def test_exit_code_and_memory_are_told(world: World) -> None:
    world.ecs.definitions["echo:1"] = Definition(memory_mb=512)

    def start(launch: Launch, clock: Any) -> Scripted:
        return Scripted(launch, clock, 5, Exit(137, oom=True))

    world.ecs.start = start

    async def ended() -> None:
        provider = world.provider()
        await provider.create(spec())
        await world.clock.sleep(60)
        for one in (provider, world.provider()):
            status = await one.get("m-1")
            assert status is not None
            assert (status.state, status.exit_code) == (MachineState.gone, 137)
            assert status.out_of_memory_mb == 512

    world.run(ended())


def test_a_task_of_yesterday_is_unknown(world: World) -> None:
    async def later() -> None:
        provider = world.provider()
        await provider.create(spec(max_duration=timedelta(seconds=10)))
        await world.clock.sleep(7200)
        assert await provider.get("m-1") is None

    world.run(later())


def test_many_looks_go_together(world: World) -> None:
    world.ecs.limits = Limits(enabled=False)
    world.ecs.latency = 0.1

    async def look() -> None:
        provider = world.provider()
        creating = [asyncio.ensure_future(provider.create(spec(f"m-{number}"))) for number in range(250)]
        for one in creating:
            await one
        before = world.ecs.count("DescribeTasks")
        looking = [asyncio.ensure_future(provider.get(f"m-{number}")) for number in range(250)]
        for one in looking:
            assert (await one) is not None
        assert world.ecs.count("DescribeTasks") - before <= 8
        assert all(len(one["tasks"]) <= 100 for one in requests(world.ecs, "DescribeTasks"))

    world.run(look())


def test_a_long_list_is_read_page_by_page(world: World) -> None:
    world.ecs.limits = Limits(enabled=False)

    async def listed() -> None:
        provider = world.provider()
        creating = [asyncio.ensure_future(provider.create(spec(f"m-{number}"))) for number in range(230)]
        for one in creating:
            await one
        found = [status.id async for status in world.provider().list()]
        assert len(found) == len(set(found)) == 230

    world.run(listed())


def test_a_log_is_said_to_be_in_cloudwatch(world: World) -> None:
    async def read() -> None:
        provider = world.provider(log_group="/switchboard/bots")
        await provider.create(spec())
        await provider.read_log("m-1", 10)

    with pytest.raises(
        Rejected, match=r"`aws logs tail /switchboard/bots --log-stream-name-prefix bot/bot/0"
    ):
        world.run(read())


def test_both_replicas_find_one_task_where_capacity_comes_between_their_calls(world: World) -> None:
    """The first finds a full zone and tries the next, the second finds room in the first zone by then."""
    world.ecs.free = {("FARGATE", "us-east-1b"): 0}
    world.ecs.latency = 0.1

    async def race() -> None:
        first = asyncio.ensure_future(world.provider().create(spec()))
        await world.clock.sleep(0.15)
        world.ecs.free.clear()
        second = asyncio.ensure_future(world.provider().create(replace(spec())))
        await first
        await second

    world.run(race())
    assert len(world.ecs.tasks) == 1


def test_no_machine_is_told_with_the_placements_name(world: World) -> None:
    world.ecs.vcpus = 0

    async def start() -> None:
        await world.create(world.fleet(), "m-1")

    with pytest.raises(NoMachine, match="ecs: ECS gave no task"):
        world.run(start())


def test_a_provider_closes_whether_or_not_it_was_used(world: World) -> None:
    async def close() -> None:
        await world.provider().close()
        used = world.provider()
        await used.prepare([])
        await used.create(spec())
        await used.close()

    world.run(close())
