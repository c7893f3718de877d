"""Machines at Fly, where the conformance suite does not look: at the fake, within Fly's published limits."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.fleet import NoMachine
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Suspends,
    Throttled,
    Unreachable,
)
from tests.fly.faults import (
    BROKEN,
    FULL_HOST,
    LOST_REPLY,
    LOST_REQUEST,
    MACHINE_LIMIT,
    MEMORY_QUOTA,
    NO_CAPACITY,
    TIMED_OUT,
    Fault,
    error,
)
from tests.fly.processes import Exit, Scripted
from tests.fly.rates import Limits
from tests.fly.wire import Answer
from tests.fly.world import IMAGE, World, spec, wanted

GRACE = timedelta(seconds=3)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.fly.violations == []


def ends(after: float, code: int, **how: Any) -> Callable[..., Scripted]:
    return lambda launch, clock: Scripted(launch, clock, after, Exit(code, **how))


def recorded(processes: list[Scripted], **how: Any) -> Callable[..., Scripted]:
    def start(launch: Any, clock: Any) -> Scripted:
        processes.append(Scripted(launch, clock, **how))
        return processes[-1]

    return start


def test_a_machine_is_asked_for_with_nothing_that_outlives_it(world: World):
    processes: list[Scripted] = []
    world.fly.start = recorded(processes)
    world.fly.apps["bots"].secrets["OPENAI_API_KEY"] = "sk-1"

    async def scenario() -> None:
        provider = world.provider(region="iad,us")
        wanted = spec(agent_environment={"OPENAI_API_KEY": "sk-1"}, memory_mb=3000)
        status = await provider.create(wanted)
        assert (status.id, status.state) == ("m-1", MachineState.started)
        (machine,) = world.fly.living()
        assert (machine.name, machine.region) == ("calls-m-1", "iad")
        timeout = ["timeout", "--kill-after=10", "3600", "python", "-P", "-m", "bot"]
        assert machine.config == {
            "image": IMAGE,
            "auto_destroy": True,
            "restart": {"policy": "no"},
            "init": {"entrypoint": timeout, "cmd": ["--machine-id", "m-1"]},
            "guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 4096},
            "env": {
                "HOME": "/tmp",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "SWITCHBOARD_BOT_FILE": "/app/bot.py",
                "SWITCHBOARD_MACHINE_ID": "m-1",
                "SWITCHBOARD_MACHINE_TOKEN": "token",
            },
            "metadata": {"switchboard_deployment": "calls", "switchboard_machine": "m-1"},
            "stop_config": {"signal": "SIGTERM", "timeout": "15s"},
        }
        # What the agent's `env` names is there all the same: the app has it.
        (process,) = processes
        assert process.launch.environment["OPENAI_API_KEY"] == "sk-1"
        assert process.launch.command == (*timeout, "--machine-id", "m-1")

    world.run(scenario())


def test_a_bot_that_crashes_at_boot_is_told_at_once(world: World):
    world.fly.start = ends(0, 3)
    # Over before its start can be waited for.
    world.fly.latency = 0.2
    world.fly.prepare_seconds = world.fly.boot_seconds = 0

    async def scenario() -> None:
        began = world.clock.now()
        status = await world.provider().create(spec())
        assert (status.state, status.exit_code) == (MachineState.gone, 3)
        assert world.clock.now() - began < 1

    world.run(scenario())


def test_a_bot_that_needs_too_much_memory_is_said_to(world: World):
    world.fly.start = ends(5, 137, oom=True)

    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        await world.clock.sleep(6)
        status = await provider.get("m-1")
        assert status is not None
        assert (status.state, status.exit_code) == (MachineState.gone, 137)
        assert status.out_of_memory_mb == 2048

    world.run(scenario())


def test_a_machine_that_fly_cannot_start_is_none_and_leaves_nothing(world: World):
    world.fly.boots("fails")

    async def scenario() -> None:
        with pytest.raises(NoCapacity, match="its state is 'failed'"):
            await world.provider().create(spec())
        await world.clock.sleep(1)
        assert world.fly.living() == []

    world.run(scenario())


def test_a_machine_whose_image_cannot_be_pulled_is_rejected_with_its_events(world: World):
    world.fly.boots("lacks image")

    async def scenario() -> None:
        events = (
            r"launch created, start starting, launch failed \(error: failed to pull image .*manifest unknown"
        )
        with pytest.raises(Rejected, match=events):
            await world.provider().create(spec())
        await world.clock.sleep(1)
        assert world.fly.living() == []

    world.run(scenario())


def test_machine_is_gone_with_its_events_when_its_image_cannot_be_pulled(world: World):
    world.fly.boots("lacks image")
    world.fly.prepare_seconds = 25

    async def scenario() -> None:
        provider = world.provider()
        assert (await provider.create(spec())).state is MachineState.requested
        await world.clock.sleep(10)
        status = await provider.get("m-1")
        assert status is not None
        assert status.state is MachineState.gone
        assert "Fly never started the machine" in status.output
        assert "manifest unknown" in status.output

    world.run(scenario())


def test_a_machine_that_takes_long_to_start_was_created_and_is_seen_to_start(world: World):
    world.fly.prepare_seconds = 25

    async def scenario() -> None:
        provider = world.provider()
        began = world.clock.now()
        assert (await provider.create(spec())).state is MachineState.requested
        assert world.clock.now() - began < 20  # the fleet's patience
        await world.clock.sleep(10)
        status = await provider.get("m-1")
        assert status is not None
        assert status.state is MachineState.started

    world.run(scenario())


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (NO_CAPACITY, NoCapacity, "insufficient resources"),
        (FULL_HOST, NoCapacity, "on the current host"),
        (error(412, "volume's host is full", "volume_placement_capacity"), NoCapacity, "host is full"),
        (MACHINE_LIMIT, QuotaReached, "machine limit"),
        (MEMORY_QUOTA, QuotaReached, "over the allowed quota"),
        (
            error(422, "To create more than 1 machine per app please add a payment method"),
            QuotaReached,
            "pay",
        ),
        (error(400, "invalid_argument: config.image"), Rejected, "config.image"),
        (error(422, "invalid_argument: region 'xyz' not found"), Rejected, "region"),
        (error(401, "unauthenticated"), Rejected, r"token \(fly_api_token\): it is wrong, revoked or"),
        (error(403, "unauthorized"), Rejected, "belongs to another organization, or the token is not valid"),
        (error(404, "app not found"), Rejected, "app not found"),
        (error(429, "rate limit exceeded"), Throttled, "rate limit"),
        (error(422, "resource_exhausted: rate limit exceeded"), Throttled, "rate limit"),
        (error(500, "resource_exhausted: rate limit exceeded"), Throttled, "rate limit"),
        (TIMED_OUT, Unreachable, "timed out"),
        (error(409, "aborted: another operation is under way"), Unreachable, "under way"),
        (BROKEN, Unreachable, "internal"),
        (Fault(Answer(503, None)), Unreachable, "503"),
        (LOST_REQUEST, Unreachable, "did not answer: ReadError"),
    ],
)
def test_an_error_is_of_the_kind_that_the_fleet_acts_on(
    world: World, fault: Fault, kind: type[ProviderError], words: str
):
    world.fly.faults.order("Machines_create", fault)

    async def scenario() -> None:
        with pytest.raises(ProviderError, match=words) as raised:
            await world.provider().create(spec())
        assert type(raised.value) is kind
        assert world.fly.living() == []

    world.run(scenario())
    # Not all errors have a body, whatever the description says.
    world.fly.violations.clear()


@pytest.mark.parametrize(
    ("header", "seconds"), [("2.5", 2.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0), ("-1", 1.0)]
)
def test_a_429_says_when_to_come_back_or_a_second_is_assumed(world: World, header: str, seconds: float):
    world.fly.faults.order("Machines_create", error(429, "rate limit exceeded", **{"retry-after": header}))

    async def scenario() -> None:
        with pytest.raises(Throttled) as raised:
            await world.provider().create(spec())
        assert raised.value.retry_after == seconds

    world.run(scenario())


def test_a_machine_that_fly_has_none_of_its_size_for_is_not_asked_for(world: World):
    async def scenario() -> None:
        with pytest.raises(Rejected, match="cpu 32 with memoryMb 1024 exceeds Fly's largest"):
            await world.provider().create(spec(cpu=32))
        assert world.fly.calls == []

    world.run(scenario())


@pytest.mark.parametrize("fault", [LOST_REPLY, LOST_REQUEST, TIMED_OUT, BROKEN])
def test_a_create_whose_answer_is_lost_gives_one_machine(world: World, fault: Fault):
    world.fly.faults.order("Machines_create", fault)
    world.fly.list_lag_seconds = 4

    async def scenario() -> None:
        status = await world.create(world.fleet(), "m-1")
        assert status.state is not MachineState.gone
        await world.clock.sleep(1)
        assert world.running() == ["m-1"]

    world.run(scenario())


def test_create_is_unreachable_when_the_created_machine_is_not_seen(world: World):
    world.fly.faults.order("Machines_wait", BROKEN)

    async def scenario() -> None:
        assert (await world.provider().create(spec())).state is MachineState.requested

    world.run(scenario())


@pytest.mark.parametrize(
    "said", [None, "already_exists: unique machine name violation", "already_exists: in other words"]
)
def test_a_name_that_is_taken_is_the_machine_of_an_earlier_create(world: World, said: str | None):
    async def scenario() -> None:
        first = world.provider()
        await first.create(spec())
        if said is not None:
            world.fly.faults.order("Machines_create", error(409, said))
        status = await world.provider().create(spec())
        assert (status.id, status.state) == ("m-1", MachineState.started)
        assert len(world.fly.living()) == 1

    world.run(scenario())


def test_a_name_that_somebody_else_has_is_refused(world: World):
    async def scenario() -> None:
        await world.provider().create(spec("b-m-1"))
        with pytest.raises(Rejected, match="calls-b-m-1 in app bots is taken by a machine that is not"):
            await world.provider(deployment="calls-b").create(spec("m-1"))

    world.run(scenario())


@pytest.mark.parametrize(("deaf", "seconds", "sent"), [(False, 0, [15]), (True, 3, [15, 9])])
def test_a_bot_is_asked_to_end_and_after_the_grace_is_ended(
    world: World, deaf: bool, seconds: float, sent: list[int]
):
    processes: list[Scripted] = []
    world.fly.start = recorded(processes, ignores_term=deaf)

    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        began = world.clock.now()
        await provider.stop("m-1", GRACE)
        assert world.clock.now() - began == pytest.approx(seconds, abs=0.1)
        assert processes[0].signals == sent
        status = await provider.get("m-1")
        assert status is not None
        assert (status.state, status.exit_code) == (MachineState.gone, 128 + sent[-1])
        await world.clock.sleep(1)
        assert world.fly.living() == []

    world.run(scenario())


def test_two_replicas_that_stop_a_machine_ask_it_once(world: World):
    processes: list[Scripted] = []
    world.fly.start = recorded(processes, ignores_term=True)

    async def scenario() -> None:
        one, other = world.provider(), world.provider()
        await one.create(spec())
        await asyncio.gather(one.stop("m-1", GRACE), other.stop("m-1", GRACE))
        assert processes[0].signals == [signal.SIGTERM, signal.SIGKILL]
        assert world.fly.living() == []

    world.run(scenario())


def test_stop_waits_for_the_lease_of_a_replica_that_died_over_it(world: World):
    async def scenario() -> None:
        one, other = world.provider(), world.provider()
        await one.create(spec())
        world.fly.faults.order("Machines_stop", BROKEN)
        with pytest.raises(Unreachable):
            await one.stop("m-1", GRACE)
        with pytest.raises(Unreachable, match="being stopped by another dispatcher"):
            await other.stop("m-1", GRACE)
        assert world.running() == ["m-1"]
        await world.clock.sleep(15)
        await other.stop("m-1", GRACE)
        assert world.running() == []

    world.run(scenario())


def test_a_stop_that_failed_can_be_repeated_at_once(world: World):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        world.fly.faults.order("Machines_stop", BROKEN)
        with pytest.raises(Unreachable):
            await provider.stop("m-1", GRACE)
        await provider.stop("m-1", GRACE)
        assert world.running() == []

    world.run(scenario())


def test_a_machine_that_has_not_started_yet_is_stopped_too(world: World):
    world.fly.prepare_seconds = 60

    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        await provider.stop("m-1", GRACE)
        await world.clock.sleep(60)
        assert world.fly.living() == []

    world.run(scenario())


@pytest.mark.parametrize("state", ["stopped", "failed", "launch_failed"])
@pytest.mark.parametrize("by", ["list", "stop"])
def test_what_has_ended_and_is_still_there_is_destroyed(world: World, state: str, by: str):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec("m-1"))
        await provider.create(spec("m-2"))
        one, _ = world.fly.living()
        one.config["auto_destroy"] = False
        one.stop(signal.SIGTERM, 1)
        await world.clock.sleep(1)
        assert one.state == "stopped"
        one.state = state
        if by == "stop":
            await provider.stop("m-1", GRACE)
        else:
            assert [status.id async for status in provider.list()] == ["m-2"]
        await world.clock.sleep(1)
        assert one.gone
        assert world.running() == ["m-2"]

    world.run(scenario())


def test_a_list_does_not_wait_until_what_has_ended_is_destroyed(world: World):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        (one,) = world.fly.living()
        one.config["auto_destroy"] = False
        one.stop(signal.SIGTERM, 1)
        await world.clock.sleep(1)
        world.fly.faults.order("Machines_delete", Fault(after=7))
        began = world.clock.now()
        # The second one finds it being destroyed, and does not ask again.
        for _ in range(2):
            assert [status async for status in provider.list()] == []
        assert world.clock.now() == began
        await world.clock.sleep(8)
        assert one.gone
        assert world.fly.count("Machines_delete") == 1

    world.run(scenario())


def test_a_list_has_the_machines_of_this_deployment_in_all_apps():
    world = World(("bots-1", "bots-2", "bots-3"), limits=Limits(None))

    async def scenario() -> None:
        provider = world.provider()
        ids = [f"m-{number}" for number in range(12)]
        for machine_id in ids:
            await provider.create(spec(machine_id))
        await world.provider(deployment="other").create(spec("m-0"))
        assert sorted([status.id async for status in world.provider().list()]) == sorted(ids)
        assert all(app.machines for app in world.fly.apps.values())

    world.run(scenario())


def test_machines_are_spread_over_the_apps_and_stay_where_they_are_when_one_is_added():
    apps = tuple(f"bots-{number}" for number in range(8))
    ids = [f"m-{number}" for number in range(4000)]
    world = World((*apps, "bots-8"))
    of_eight, of_nine = world.provider(apps=apps), world.provider()
    before = {machine_id: of_eight.lane(machine_id) for machine_id in ids}
    counts = Counter(before.values())
    assert set(counts) == set(apps)
    assert max(counts.values()) < 1.2 * len(ids) / 8
    after = {machine_id: of_nine.lane(machine_id) for machine_id in ids}
    assert {after[machine_id] for machine_id in ids if after[machine_id] != before[machine_id]} == {"bots-8"}


SHORT, LONG = {"apps": ("bots-1",)}, {"apps": ("bots-1", "bots-2", "bots-3")}
SHRUNK = {"apps": ("bots-1",), "draining_apps": ("bots-2", "bots-3")}


def moving(world: World) -> str:
    """A machine that is in another app by the long list than by the short one."""
    return next(f"m-{n}" for n in range(50) if world.provider(**LONG).lane(f"m-{n}") == "bots-2")


@pytest.mark.parametrize(("before", "after"), [(SHORT, LONG), (LONG, SHRUNK)])
def test_a_create_that_is_gone_on_with_by_another_list_of_apps_gives_one_machine(
    before: dict[str, Any], after: dict[str, Any]
):
    world = World(("bots-1", "bots-2", "bots-3"))

    async def scenario() -> None:
        machine = moving(world)
        await world.create(world.fleet(world.provider(**before)), machine)
        successor = world.fleet(world.provider(**after))
        deadline = world.clock.now() + 60
        status = await successor.resume(spec(machine), (), deadline, wanted, "fly")
        assert (status.id, status.state) == (machine, MachineState.started)
        assert world.running() == [machine]

    world.run(scenario())


@pytest.mark.parametrize(("before", "after"), [(SHORT, LONG), (LONG, SHRUNK)])
def test_a_replica_with_another_list_of_apps_sees_a_machine_and_stops_it(
    before: dict[str, Any], after: dict[str, Any]
):
    world = World(("bots-1", "bots-2", "bots-3"))

    async def scenario() -> None:
        machine = moving(world)
        await world.provider(**before).create(spec(machine))
        status = await world.provider(**after).get(machine)
        assert status is not None
        assert status.state is MachineState.started
        assert [one.id async for one in world.provider(**after).list()] == [machine]
        await world.provider(**after).stop(machine, GRACE)
        await world.clock.sleep(1)
        assert world.fly.living() == []

    world.run(scenario())


def test_an_app_that_is_draining_gets_no_new_machines():
    world = World(("bots-1", "bots-2", "bots-3"), limits=Limits(None))

    async def scenario() -> None:
        provider = world.provider(**SHRUNK)
        for number in range(12):
            await provider.create(spec(f"m-{number}"))
        assert {machine.app.name for machine in world.fly.living()} == {"bots-1"}

    world.run(scenario())


def test_that_there_is_no_machine_is_not_said_while_an_app_cannot_be_asked():
    world = World(("bots-1", "bots-2", "bots-3"))

    async def scenario() -> None:
        provider = world.provider()
        world.fly.faults.order("Machines_list", Fault())
        world.fly.faults.order("Machines_list", BROKEN)
        with pytest.raises(Unreachable, match="internal"):
            await provider.get("m-1")
        assert await provider.get("m-1") is None

    world.run(scenario())


@pytest.mark.parametrize("apps", [64, 100])
def test_many_apps_are_listed_at_once(apps: int):
    world = World(tuple(f"bots-{number}" for number in range(apps)))
    world.fly.latency = 0.2

    async def scenario() -> None:
        await world.provider().create(spec("m-1"))
        began = world.clock.now()
        assert [one.id async for one in world.fleet().list("fly")] == ["m-1"]
        assert world.clock.now() - began < 1

    world.run(scenario())


def test_list_has_the_machines_of_other_apps_when_one_app_fails(caplog: Any):
    world = World(("bots-1", "bots-2", "bots-3"), limits=Limits(None))

    async def scenario() -> None:
        provider = world.provider()
        ids = [f"m-{number}" for number in range(12)]
        for machine_id in ids:
            await provider.create(spec(machine_id))
        others = [machine_id for machine_id in ids if provider.lane(machine_id) != "bots-1"]
        del world.fly.apps["bots-1"]
        seen: list[MachineStatus] = []

        async def read() -> None:
            async for status in world.fleet().list("fly"):
                seen.append(status)

        with pytest.raises(Rejected, match="bots-1"):
            await read()
        assert sorted(status.id for status in seen) == sorted(others) != []

    world.run(scenario())
    assert "Fly's app bots-1: " in caplog.text


def test_each_app_is_asked_with_its_own_token_as_fly_prints_it():
    world = World(("bots-1", "bots-2"), limits=Limits(None))
    tokens = {app: f"FlyV1 {world.fly.token(app)}" for app in world.apps}

    async def scenario() -> None:
        provider = world.provider(tokens=FlyTokens.parse(json.dumps(tokens)))
        ids = [f"m-{number}" for number in range(8)]
        for machine_id in ids:
            await provider.create(spec(machine_id))
        assert sorted([status.id async for status in provider.list()]) == ids
        swapped = dict(zip(tokens, reversed(tokens.values()), strict=True))
        with pytest.raises(Rejected, match="not good for this app"):
            await world.provider(tokens=FlyTokens(by_app=swapped)).create(spec("m-9"))

    world.run(scenario())


def test_a_token_that_is_refused_is_logged_when_the_dispatcher_starts(world: World, caplog: Any):
    async def scenario() -> None:
        provider = world.provider(tokens=FlyTokens("fm2_of-nobody"))
        await provider.prepare([])
        await world.clock.sleep(1)
        await provider.close()

    world.run(scenario())
    assert "Fly refuses the token" in caplog.text
    assert "of-nobody" not in caplog.text


def test_starts_wait_for_their_turn_and_are_never_throttled(world: World):
    async def scenario() -> None:
        fleet, began = world.fleet(), world.clock.now()
        await asyncio.gather(*(world.create(fleet, f"m-{number}") for number in range(10)))
        # Three at once, and one a second.
        assert world.clock.now() - began == pytest.approx(7.3, abs=0.1)
        assert world.fly.count("Machines_create", 429) == 0
        assert len(world.running()) == 10

    world.run(scenario())


def test_starts_above_flys_rate_are_refused_and_open_no_breaker(world: World):
    # A machine takes so long to start that the last ones in the queue see their deadline first.
    world.fly.boot_seconds = 4

    async def scenario() -> None:
        fleet = world.fleet()
        starts = [world.create(fleet, f"m-{number}", seconds=27) for number in range(60)]
        came = await asyncio.gather(*starts, return_exceptions=True)
        assert fleet.breakers["fly"] == "closed"
        assert world.fly.count("Machines_create", 429) == 0
        away = Counter(type(one.error) for one in came if isinstance(one, NoMachine))
        # Three at once and one a second, for as long as there is time for an answer; the last ones are not
        # heard.
        assert away == {Throttled: 60 - 28, Unreachable: 3}
        await world.clock.sleep(5)
        assert len(world.running()) == 28

    world.run(scenario())


def test_an_app_that_is_busy_keeps_no_machine_of_another_app_waiting():
    world = World(("bots-1", "bots-2"))

    async def scenario() -> None:
        fleet, provider = world.fleet(), world.provider()
        ids = [f"m-{number}" for number in range(40)]
        busy = [machine_id for machine_id in ids if provider.lane(machine_id) == "bots-1"][:8]
        free = next(machine_id for machine_id in ids if provider.lane(machine_id) == "bots-2")
        began = world.clock.now()
        waiting = [asyncio.create_task(world.create(fleet, machine_id)) for machine_id in busy]
        await world.create(fleet, free)
        assert world.clock.now() - began < 1
        await asyncio.gather(*waiting)
        assert world.clock.now() - began > 5

    world.run(scenario())


def test_replicas_that_share_an_apps_limit_get_their_machines_one_after_the_other(world: World):
    async def scenario() -> None:
        fleets = [world.fleet(), world.fleet()]
        starts = [world.create(fleets[number % 2], f"m-{number}") for number in range(12)]
        await asyncio.gather(*starts)
        assert world.fly.count("Machines_create", 429) > 0
        assert sorted(world.running()) == sorted(f"m-{number}" for number in range(12))

    world.run(scenario())


def test_look_ups_keep_to_the_limit_of_lists_and_say_so_when_it_takes_long(world: World):
    async def scenario() -> None:
        provider = world.provider()
        looks = (provider.get(f"m-{number}") for number in range(20))
        found = await asyncio.gather(*looks, return_exceptions=True)
        assert world.fly.count("Machines_list", 429) == 0
        assert found.count(None) == 8  # three at once, and five in as many seconds
        assert all(isinstance(one, Throttled) for one in found if one is not None)

    world.run(scenario())


def test_a_machine_is_frozen_and_goes_on(world: World):
    async def scenario() -> None:
        provider = world.provider()
        assert isinstance(provider, Suspends)
        await provider.create(spec())
        await provider.suspend("m-1")
        status = await provider.get("m-1")
        assert status is not None
        assert status.state is MachineState.requested
        assert [status.id async for status in provider.list()] == ["m-1"]
        began = world.clock.now()
        assert (await provider.resume("m-1")).state is MachineState.started
        assert world.clock.now() - began == pytest.approx(world.fly.resume_seconds)
        await provider.stop("m-1", GRACE)
        with pytest.raises(Rejected, match="machine m-1 no longer exists"):
            await provider.resume("m-1")

    world.run(scenario())


def test_a_machine_that_is_too_large_to_freeze_is_refused(world: World):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec(memory_mb=4096))
        with pytest.raises(Rejected, match="cannot be suspended"):
            await provider.suspend("m-1")

    world.run(scenario())


def test_a_frozen_machine_can_be_stopped(world: World):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        await provider.suspend("m-1")
        await provider.stop("m-1", GRACE)
        await world.clock.sleep(1)
        assert world.fly.living() == []

    world.run(scenario())


def test_log_of_a_machine_is_said_to_be_elsewhere(world: World):
    async def scenario() -> None:
        provider = world.provider()
        await provider.create(spec())
        (machine,) = world.fly.living()
        with pytest.raises(Rejected, match=f"fly logs --app bots --machine {machine.id}"):
            await provider.read_log("m-1", 10)
        with pytest.raises(Rejected, match="fly logs --app"):
            await provider.read_log("m-none", 10)

    world.run(scenario())
