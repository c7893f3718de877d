"""The compute-engine provider: requests, zones, errors, ends and look-ups, at the fake of the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.compute_engine import client
from dispatcher.machines.compute_engine.provider import FULL_SECONDS, ComputeEngineProvider
from dispatcher.machines.fleet import NoMachine
from dispatcher.machines.provider import (
    MachineProvider,
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Suspends,
    Throttled,
    Unreachable,
)
from tests.contracts.memory import STAYS, start
from tests.fly.faults import Fault
from tests.gcp import faults
from tests.gcp.engine import PROJECT, TEMPLATE, ZONES
from tests.gcp.world import EngineWorld, spec

INSERT = "compute.instances.insert"
GRACE = timedelta(seconds=3)
A, B = ZONES[:2]


@pytest.fixture
def world() -> Iterator[EngineWorld]:
    made = EngineWorld()
    yield made
    assert made.engine.violations == []


def zones_asked(world: EngineWorld) -> list[str]:
    return [call.params["zone"] for call in world.engine.calls if call.method == INSERT]


async def until_state(
    world: EngineWorld, provider: MachineProvider, machine_id: str, state: MachineState
) -> None:
    while (status := await provider.get(machine_id)) is None or status.state is not state:
        await world.clock.sleep(1)


def test_request_is_merged_over_the_template(world: EngineWorld) -> None:
    status = world.run(world.provider().create(spec("m-1", arguments=("--machine-id", "m-1"))))
    assert status == MachineStatus("m-1", MachineState.started)
    vm = world.engine.one("calls-m-1")
    assert vm.shape["labels"] == {
        **TEMPLATE["labels"],
        "switchboard-deployment": "calls",
        "switchboard-machine": "m-1",
    }
    assert vm.shape["networkInterfaces"] == TEMPLATE["networkInterfaces"]
    assert vm.metadata("user-data") == "#cloud-config\n"
    assert json.loads(vm.metadata("switchboard-command"))[:3] == ["timeout", "--kill-after=10", "3600"]
    variables = json.loads(vm.metadata("switchboard-variables"))
    assert variables["SWITCHBOARD_MACHINE_ID"] == "m-1"
    assert variables["SWITCHBOARD_MACHINE_TOKEN"] == "token"
    assert vm.shape["scheduling"] == {
        "onHostMaintenance": "MIGRATE",
        "provisioningModel": "STANDARD",
        "maxRunDuration": {"seconds": "3610"},
        "instanceTerminationAction": "DELETE",
        "automaticRestart": False,
    }


def test_metadata_holds_no_secret_of_the_agent_or_the_session(world: EngineWorld) -> None:
    given = spec(
        "m-1",
        arguments=(
            "--machine-id",
            "m-1",
            "--session-id",
            "s-1",
            "--room-url",
            "https://x.test",
            "--token",
            "t0ken",
        ),
        agent_environment={"OPENAI_API_KEY": "sk-hidden"},
    )
    world.run(world.provider().create(given))
    shown = json.dumps(world.engine.one("calls-m-1").shape)
    assert "sk-hidden" not in shown
    assert "t0ken" not in shown


def test_template_in_a_region_is_read_once(world: EngineWorld) -> None:
    world.engine.templates["regions/europe-west4/instanceTemplates/echo-2"] = TEMPLATE
    provider = world.provider(templates={"echo": "regions/europe-west4/instanceTemplates/echo-2"})

    async def twice() -> None:
        await provider.create(spec("m-1"))
        await provider.create(spec("m-2"))

    world.run(twice())
    assert world.engine.count("regionInstanceTemplates.get") == 1
    assert sorted(world.running()) == []  # they boot
    assert world.engine.one("calls-m-2").template == "regions/europe-west4/instanceTemplates/echo-2"


def test_spot_vm_is_requested_as_compute_engine_takes_it(world: EngineWorld) -> None:
    world.run(world.provider(spot=True).create(spec("m-1")))
    scheduling = world.engine.one("calls-m-1").shape["scheduling"]
    assert (scheduling["provisioningModel"], scheduling["onHostMaintenance"]) == ("SPOT", "TERMINATE")


def test_zone_without_capacity_is_followed_by_the_next_and_not_asked_for_a_while(world: EngineWorld) -> None:
    world.engine.room[A] = 0
    provider = world.provider()

    async def go() -> None:
        await provider.create(spec("m-1"))
        await provider.create(spec("m-2"))
        assert zones_asked(world) == [A, B, B]
        await world.clock.sleep(FULL_SECONDS)
        world.engine.room[A] = 1
        await provider.create(spec("m-3"))

    world.run(go())
    assert zones_asked(world) == [A, B, B, A]
    assert [vm.zone for vm in world.engine.living()] == [B, B, A]


def test_no_zone_has_capacity(world: EngineWorld) -> None:
    world.engine.room |= {A: 0, B: 0}
    provider = world.provider()

    async def go() -> None:
        for _ in range(2):
            with pytest.raises(NoCapacity):
                await provider.create(spec("m-1"))

    world.run(go())
    assert zones_asked(world) == [A, B]
    assert world.engine.living() == []


def test_create_is_idempotent_where_its_zone_has_filled_up_since(world: EngineWorld) -> None:
    world.engine.room |= {A: 1, B: 0}
    provider = world.provider()

    async def go() -> None:
        await provider.create(spec("m-1"))
        with pytest.raises(NoCapacity):
            await provider.create(spec("m-2"))
        assert await provider.create(spec("m-1")) == MachineStatus("m-1", MachineState.started)

    world.run(go())
    assert len(world.engine.living()) == 1


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (faults.QUOTA, QuotaReached, "Quota 'CPUS' exceeded"),
        (faults.NO_ADDRESS, QuotaReached, "the subnet has no address left"),
        (faults.NO_IMAGE, Rejected, "was not found"),
        (faults.INTERNAL, Unreachable, "Internal error"),
    ],
)
def test_operation_that_fails_is_told_by_its_kind(
    world: EngineWorld, error: dict[str, Any], kind: type[ProviderError], words: str
) -> None:
    world.engine.insert_errors[A].append(error)
    with pytest.raises(kind, match=words):
        world.run(world.provider().create(spec("m-1")))
    assert zones_asked(world) == [A]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (faults.FORBIDDEN, Rejected, "the dispatcher's service account lacks a permission"),
        (faults.DISABLED, Rejected, "the API is not enabled in the project"),
        (faults.BROKEN, Unreachable, "503"),
        (
            Fault(faults.error(403, "Quota 'CPUS' exceeded. Limit: 24.0", "quotaExceeded")),
            QuotaReached,
            "raise it",
        ),
        (Fault(faults.error(400, "Invalid value for field", "invalid")), Rejected, "Invalid value"),
        (
            Fault(
                faults.error(
                    412,
                    "Constraint constraints/compute.vmExternalIpAccess violated for project 1.",
                    "conditionNotMet",
                )
            ),
            Rejected,
            "vmExternalIpAccess",
        ),
        (
            Fault(faults.error(403, "This API method requires billing to be enabled.", "billingNotEnabled")),
            Rejected,
            "no billing account",
        ),
        (
            Fault(faults.error(400, "The resource 'x' is not ready", "resourceNotReady")),
            Throttled,
            "not ready",
        ),
        (faults.LOST_REPLY, Unreachable, "ReadError"),
    ],
)
def test_insert_that_fails_is_told_by_its_kind(
    world: EngineWorld, fault: Fault, kind: type[ProviderError], words: str
) -> None:
    world.engine.faults.order(INSERT, fault)
    with pytest.raises(kind, match=words):
        world.run(world.provider().create(spec("m-1")))


def test_rate_quota_is_waited_for_until_the_next_minute(world: EngineWorld) -> None:
    world.engine.faults.order(INSERT, faults.RATE_LIMITED)

    async def go() -> None:
        until_next = 60 - world.clock.now() % 60
        began = world.clock.now()
        with pytest.raises(Throttled) as throttled:
            await world.provider().create(spec("m-1"))
        assert throttled.value.retry_after == pytest.approx(until_next, abs=1)
        await world.create(world.fleet(), "m-2")
        assert world.clock.now() >= began

    world.run(go())


def test_refused_template_is_rejected_before_anything_is_created(world: EngineWorld) -> None:
    with pytest.raises(Rejected, match="templates has none for agent 'other'; it has: echo"):
        world.run(world.provider().create(spec("m-1", agent="other")))
    with pytest.raises(Rejected, match="'projects/my-project/global/instanceTemplates/gone' was not found"):
        world.run(world.provider(templates={"echo": "gone"}).create(spec("m-1")))
    assert world.engine.count(INSERT) == 0


def test_lost_answer_is_recovered_with_one_vm(world: EngineWorld) -> None:
    for machine_id, fault in (("m-1", faults.LOST_REPLY), ("m-2", faults.LOST_REQUEST)):
        world.engine.faults.order(INSERT, fault)
        world.run(world.create(world.fleet(), machine_id))
    assert sorted(vm.name for vm in world.engine.living()) == ["calls-m-1", "calls-m-2"]


def test_repeated_insert_is_given_the_first_ones_operation(world: EngineWorld) -> None:
    async def go() -> None:
        world.engine.faults.order(INSERT, faults.LOST_REPLY)
        with pytest.raises(Unreachable):
            await world.provider().create(spec("m-1"))
        assert await world.provider().create(spec("m-1")) == MachineStatus("m-1", MachineState.started)

    world.run(go())
    requests = {call.query["requestId"][0] for call in world.engine.calls if call.method == INSERT}
    assert len(requests) == 1
    assert len(world.engine.vms) == 1


def test_create_answers_in_time_where_its_operation_takes_longer(world: EngineWorld) -> None:
    world.engine.times = world.engine.times.__class__(provision=50)
    provider = world.provider()

    async def go() -> None:
        status = await provider.create(spec("m-1", answer_by=world.clock.now() + 5))
        assert status == MachineStatus("m-1", MachineState.requested)
        await until_state(world, provider, "m-1", MachineState.started)

    world.run(go())


def test_operation_that_cannot_be_read_leaves_the_machine_requested(world: EngineWorld) -> None:
    world.engine.faults.order("compute.zoneOperations.wait", faults.BROKEN)
    assert world.run(world.provider().create(spec("m-1"))) == MachineStatus("m-1", MachineState.requested)


def test_stop_keeps_a_create_from_the_next_zone(world: EngineWorld) -> None:
    world.engine.room[A] = 0
    provider = world.provider()

    async def go() -> None:
        creating = asyncio.ensure_future(provider.create(spec("m-1")))
        await world.clock.sleep(1)
        await provider.stop("m-1", GRACE)
        with pytest.raises(NoCapacity):
            await creating

    world.run(go())
    assert zones_asked(world) == [A]


def test_ended_vm_is_deleted_once_its_end_is_on_record() -> None:
    world = EngineWorld(start=start)
    provider = world.provider()

    async def listed() -> None:
        assert [status async for status in provider.list()] == []
        await world.clock.sleep(10)

    async def go() -> None:
        await provider.create(world.spec("m-1", arguments=("exit", "7")))
        await until_state(world, provider, "m-1", MachineState.gone)
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.gone, exit_code=7)
        await listed()
        await listed()
        assert list(provider.ended) == ["m-1"]
        assert world.engine.count("instances.delete") == 0
        provider.recorded(["m-1"])
        await listed()

    world.run(go())
    assert world.engine.living() == []
    assert world.engine.violations == []


def test_stuck_bot_ends_at_its_deadline_without_a_dispatcher() -> None:
    world = EngineWorld(start=start)

    async def go() -> None:
        await world.provider().create(
            world.spec("m-1", arguments=(STAYS, ""), max_duration=timedelta(minutes=5))
        )
        began = world.clock.now()
        vm = world.engine.one("calls-m-1")
        vm.shape["metadata"]["items"] = [
            {**item, "value": '["python", "stays", ""]'} if item["key"] == "switchboard-command" else item
            for item in vm.shape["metadata"]["items"]
        ]
        while world.engine.living():
            await world.clock.sleep(1)
        assert 300 < world.clock.now() - began < 300 + 60

    world.run(go())


def test_machine_in_two_zones_stays_in_the_one_that_had_it_first(world: EngineWorld) -> None:
    async def go() -> None:
        await world.provider(zones=(B,)).create(spec("m-1"))
        await world.provider(zones=(A,)).create(spec("m-1"))
        assert len(world.engine.living()) == 2
        provider = world.provider()
        assert [status.id async for status in provider.list()] == ["m-1"]
        await world.clock.sleep(60)
        assert [status.id async for status in provider.list()] == ["m-1"]

    world.run(go())
    assert [vm.zone for vm in world.engine.living()] == [B]


def test_stop_ends_the_machine_in_every_zone(world: EngineWorld) -> None:
    async def go() -> None:
        for zone in (A, B):
            await world.provider(zones=(zone,)).create(spec("m-1"))
        await world.provider().stop("m-1", GRACE)
        await world.clock.sleep(60)

    world.run(go())
    assert world.engine.living() == []


def test_draining_zone_gets_no_machines_and_keeps_its_own(world: EngineWorld) -> None:
    async def go() -> None:
        await world.provider(zones=(A,)).create(spec("m-1"))
        provider = world.provider(zones=(B,), draining_zones=(A,))
        await provider.create(spec("m-2"))
        assert sorted([status.id async for status in provider.list()]) == ["m-1", "m-2"]
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.started)
        await provider.stop("m-1", GRACE)
        await world.clock.sleep(60)

    world.run(go())
    assert [vm.zone for vm in world.engine.living()] == [B]


def test_zone_that_does_not_answer_hides_nothing(world: EngineWorld) -> None:
    async def go() -> None:
        await world.provider(zones=(A,)).create(spec("m-1"))
        await world.provider(zones=(B,)).create(spec("m-2"))
        world.engine.away = {B}
        provider, found = world.provider(), []

        async def listed() -> None:
            async for status in provider.list():
                found.append(status.id)

        with pytest.raises(Unreachable):
            await listed()
        assert found == ["m-1"]
        assert await provider.get("m-1") is not None
        with pytest.raises(Unreachable):
            await provider.get("m-2")
        with pytest.raises(Unreachable):
            await provider.get("m-3")

    world.run(go())


def test_zone_that_hangs_keeps_no_other_waiting(world: EngineWorld) -> None:
    async def go() -> None:
        for number, zone in enumerate(ZONES):
            await world.provider(zones=(zone,)).create(spec(f"m-{number}"))
        for _ in range(2):
            world.engine.faults.order("compute.instances.list", Fault(after=7))
        began, found = world.clock.now(), []
        async for status in world.provider(zones=ZONES).list():
            found.append(status.id)
        assert sorted(found) == ["m-0", "m-1", "m-2"]
        assert world.clock.now() - began < 8

    world.run(go())


def test_list_goes_through_all_pages(world: EngineWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    provider = world.provider()
    ids = [f"m-{number}" for number in range(5)]

    async def go() -> list[str]:
        for machine_id in ids:
            await provider.create(spec(machine_id))
        return sorted([status.id async for status in provider.list()])

    assert world.run(go()) == ids


def test_vm_is_suspended_and_resumed(world: EngineWorld) -> None:
    provider = world.provider()
    assert isinstance(provider, Suspends)

    async def go() -> None:
        await provider.create(spec("m-1"))
        await world.clock.sleep(20)
        await provider.suspend("m-1")
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.requested)
        assert await provider.resume("m-1") == MachineStatus("m-1", MachineState.started)
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.started)
        with pytest.raises(Rejected, match="no longer exists"):
            await provider.suspend("m-2")

    world.run(go())


def test_fleet_asks_the_next_placement_where_no_zone_has_capacity(world: EngineWorld) -> None:
    world.engine.room |= {A: 0, B: 0}
    with pytest.raises(NoMachine) as none:
        world.run(world.create(world.fleet(), "m-1"))
    assert none.value.nowhere
    assert isinstance(none.value.error, NoCapacity)


def test_every_call_takes_a_turn_of_its_rate_quota() -> None:
    world = EngineWorld()
    world.engine.rates = {INSERT: 1500, "compute.instances.get": 1500}
    provider = world.provider()

    async def go() -> None:
        for _ in range(40):
            found = await asyncio.gather(*(provider.get(f"m-{n}") for n in range(60)), return_exceptions=True)
            assert all(one is None or isinstance(one, Throttled) for one in found)

    world.run(go())
    assert {call.status for call in world.engine.calls} == {404}


def test_log_is_where_google_keeps_it(world: EngineWorld) -> None:
    provider: ComputeEngineProvider = world.provider()
    with pytest.raises(Rejected, match=f'resource_name"="calls-m-1".* --project {PROJECT}'):
        world.run(provider.read_log("m-1", 100))
