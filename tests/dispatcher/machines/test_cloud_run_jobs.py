"""The cloud-run-jobs provider: requests, races, errors, ends and look-ups, at the fake of the API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.cloud_run_jobs import client
from dispatcher.machines.cloud_run_jobs.status import exit_code_of
from dispatcher.machines.provider import (
    MachineProvider,
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)
from tests.contracts.memory import STAYS, start
from tests.fly.faults import Fault
from tests.gcp import faults
from tests.gcp.executions import Job
from tests.gcp.run import NO_IMAGE, NO_ROOM, PARENT
from tests.gcp.world import RunWorld, spec

RUN = "run.projects.locations.jobs.run"
LIST = "run.projects.locations.jobs.executions.list"
GET = "run.projects.locations.jobs.executions.get"
CANCEL = "run.projects.locations.jobs.executions.cancel"
GRACE = timedelta(seconds=3)


@pytest.fixture
def world() -> Iterator[RunWorld]:
    made = RunWorld()
    yield made
    assert made.run_api.violations == []


async def until_gone(world: RunWorld, provider: MachineProvider, machine_id: str) -> MachineStatus:
    while (status := await provider.get(machine_id)) is None or status.state is not MachineState.gone:
        await world.clock.sleep(1)
    return status


def test_execution_gets_arguments_variables_and_a_deadline(world: RunWorld) -> None:
    status = world.run(world.provider(container="bot").create(spec("m-1")))
    assert status == MachineStatus("m-1", MachineState.started)
    (execution,) = world.run_api.executions
    assert execution.overrides["timeout"] == "3610s"
    assert execution.overrides["taskCount"] == 1
    (container,) = execution.overrides["containerOverrides"]
    assert container["name"] == "bot"
    assert container["args"][:3] == ["timeout", "--kill-after=10", "3600"]
    assert execution.env["SWITCHBOARD_MACHINE_TOKEN"] == "token"
    assert execution.env["OPENAI_API_KEY"] == "sk-from-secret-manager"


def test_overrides_hold_no_secret_of_the_agent_or_the_session(world: RunWorld) -> None:
    words = ("--machine-id", "m-1", "--session-id", "s-1", "--room-url", "https://x.test", "--token", "t0ken")
    given = spec("m-1", arguments=words, agent_environment={"OTHER_API_KEY": "sk-hidden"})
    world.run(world.provider().create(given))
    shown = json.dumps(world.run_api.executions[0].overrides)
    assert "sk-hidden" not in shown
    assert "t0ken" not in shown


def test_deadline_is_at_most_what_cloud_run_takes(world: RunWorld) -> None:
    world.run(world.provider().create(spec("m-1", max_duration=timedelta(days=30))))
    assert world.run_api.executions[0].overrides["timeout"] == "604800s"


def test_variable_that_is_too_large_is_rejected_by_its_name(world: RunWorld) -> None:
    with pytest.raises(Rejected, match="variable BIG has 40000 bytes, and Cloud Run allows 32768"):
        world.run(world.provider().create(spec("m-1", environment={"BIG": "x" * 40000})))
    assert world.run_api.count("jobs.run") == 0


def test_agent_without_a_job_is_rejected(world: RunWorld) -> None:
    with pytest.raises(Rejected, match="jobs has none for agent 'other'; it has: echo"):
        world.run(world.provider().create(spec("m-1", agent="other")))
    with pytest.raises(Rejected, match="404"):
        world.run(world.provider(jobs={"echo": "gone"}).create(spec("m-1")))


def test_create_looks_for_an_execution_before_it_runs_one(world: RunWorld) -> None:
    async def go() -> None:
        await world.provider().create(spec("m-1"))
        assert await world.provider().create(spec("m-1")) == MachineStatus("m-1", MachineState.started)

    world.run(go())
    assert world.run_api.count("jobs.run") == 1


def test_creates_in_a_row_of_one_machine_run_once_where_the_first_was_not_taken(world: RunWorld) -> None:
    world.run_api.latency = 0.5
    world.run_api.faults.order(RUN, faults.RUN_RATE_LIMITED)
    provider = world.provider()

    async def go() -> None:
        creates = [asyncio.ensure_future(provider.create(spec("m-1"))) for _ in range(3)]
        with pytest.raises(Throttled):
            await creates[0]
        await asyncio.gather(*creates, provider.create(spec("m-1")), return_exceptions=True)
        await world.clock.sleep(60)
        await provider.create(spec("m-1"))

    world.run(go())
    assert len(world.run_api.executions) == 1


@pytest.mark.parametrize("fault", [faults.LOST_REPLY, faults.LOST_REQUEST])
def test_lost_answer_is_recovered_with_one_execution(world: RunWorld, fault: Fault) -> None:
    world.run_api.faults.order(RUN, fault)
    status = world.run(world.create(world.fleet(), "m-1"))
    assert status.state is not MachineState.gone
    assert len(world.run_api.executions) == 1


def test_execution_that_shows_up_late_leaves_one_bot(world: RunWorld) -> None:
    world.run_api.faults.order(RUN, faults.LOST_REPLY)
    world.run_api.lag_seconds = 40

    async def go() -> None:
        await world.create(world.fleet(), "m-1")
        await world.clock.sleep(60)
        provider = world.provider()
        assert [status.id async for status in provider.list()] == ["m-1"]
        await world.clock.sleep(30)

    world.run(go())
    assert len(world.run_api.executions) == 2
    assert world.running() == ["m-1"]
    assert world.run_api.executions[0].runs


def test_two_dispatchers_that_race_leave_one_bot(world: RunWorld) -> None:
    world.run_api.lag_seconds = 2

    async def go() -> None:
        await asyncio.gather(*(world.provider().create(spec("m-1")) for _ in range(3)))
        await world.clock.sleep(60)

    world.run(go())
    assert len(world.run_api.executions) == 3
    assert world.running() == ["m-1"]
    assert world.run_api.executions[0].runs


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (faults.RUN_RATE_LIMITED, Throttled, "Job run requests"),
        (faults.RUN_QUOTA, QuotaReached, "raise it in the console"),
        (faults.RUN_BROKEN, Unreachable, "503"),
        (faults.LOST_REPLY, Unreachable, "ReadError"),
        (
            Fault(
                faults.error(403, "Permission 'run.jobs.runWithOverrides' denied", "", "PERMISSION_DENIED")
            ),
            Rejected,
            "lacks a permission",
        ),
        (Fault(faults.error(409, "Conflict", "", "ABORTED")), Unreachable, "409"),
    ],
)
def test_run_that_fails_is_told_by_its_kind(
    world: RunWorld, fault: Fault, kind: type[ProviderError], words: str
) -> None:
    world.run_api.faults.order(RUN, fault)
    with pytest.raises(kind, match=words):
        world.run(world.provider().create(spec("m-1")))


def test_quota_of_running_executions_is_reached(world: RunWorld) -> None:
    world.run_api.most_running = 1

    async def go() -> None:
        await world.provider().create(spec("m-1"))
        with pytest.raises(QuotaReached):
            await world.provider().create(spec("m-2"))

    world.run(go())


def test_rate_quota_is_waited_for_by_the_fleet(world: RunWorld) -> None:
    world.run_api.faults.order(RUN, faults.RUN_RATE_LIMITED)
    status = world.run(world.create(world.fleet(), "m-1"))
    assert status == MachineStatus("m-1", MachineState.started)
    assert world.run_api.count("jobs.run") == 2


@pytest.mark.parametrize(
    ("condition", "kind", "words"),
    [(NO_IMAGE, Rejected, "CONTAINER_MISSING.*mend the job"), (NO_ROOM, NoCapacity, "has no capacity")],
)
def test_execution_that_cannot_start_is_told_by_its_kind(
    world: RunWorld, condition: dict[str, Any], kind: type[ProviderError], words: str
) -> None:
    world.run_api.failures.append(condition)
    with pytest.raises(kind, match=words):
        world.run(world.provider().create(spec("m-1")))


def test_create_answers_in_time(world: RunWorld) -> None:
    world.run_api.times = world.run_api.times.__class__(schedule=60)

    async def go() -> None:
        status = await world.provider().create(spec("m-1", answer_by=world.clock.now() + 5))
        assert status == MachineStatus("m-1", MachineState.requested)

    world.run(go())


def test_list_that_fails_hides_nothing(world: RunWorld) -> None:
    world.run_api.jobs[f"{PARENT}/jobs/other"] = Job(f"{PARENT}/jobs/other")
    jobs = {"echo": "echo", "other": "other"}

    async def go() -> None:
        await world.provider(jobs=jobs).create(spec("m-1"))
        world.run_api.faults.order(LIST, faults.RUN_BROKEN)
        with pytest.raises(Unreachable):
            await world.provider(jobs=jobs).get("m-2")
        provider = world.provider(jobs=jobs)
        world.run_api.faults.order(LIST, faults.RUN_BROKEN, times=2)
        with pytest.raises(Unreachable):
            await provider.get("m-1")
        assert await provider.get("m-1") == MachineStatus("m-1", MachineState.started)

    world.run(go())


def test_execution_of_a_job_that_left_the_settings_is_found_listed_and_stopped(world: RunWorld) -> None:
    world.run_api.jobs[f"{PARENT}/jobs/other"] = Job(f"{PARENT}/jobs/other")
    neighbours = RunWorld(deployment="neighbours")
    neighbours.run_api, neighbours.clock = world.run_api, world.clock

    async def go() -> None:
        await world.provider(jobs={"echo": "echo", "other": "other"}).create(spec("m-1", agent="other"))
        await neighbours.provider(jobs={"other": "other"}).create(spec("m-2", agent="other"))
        asked, lister, stopper = world.provider(), world.provider(), world.provider()
        assert await asked.get("m-1") == MachineStatus("m-1", MachineState.started)
        assert await asked.get("m-2") is None
        for _ in range(2):
            assert [status.id async for status in lister.list()] == ["m-1"]
        await stopper.stop("m-1", GRACE)
        await until_gone(world, stopper, "m-1")

    world.run(go())
    assert [one.removeprefix("neighbours-") for one in world.run_api.running()] == ["m-2"]


def test_machine_is_not_absent_while_the_other_jobs_cannot_be_listed(world: RunWorld) -> None:
    refused = Fault(faults.error(403, "Permission 'run.executions.list' denied", "", "PERMISSION_DENIED"))

    async def go() -> None:
        provider = world.provider()
        assert (await provider.create(spec("m-1"))).state is MachineState.started
        await world.clock.sleep(60)
        # The list of the job answers, that of the region's jobs does not.
        world.run_api.faults.order(LIST, Fault())
        world.run_api.faults.order(LIST, refused)
        with pytest.raises(Rejected, match="executions"):
            await provider.get("m-2")
        assert await provider.get("m-2") is None

    world.run(go())


def test_list_goes_through_all_pages_and_serves_all_who_wait(
    world: RunWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 2)
    ids = [f"m-{number}" for number in range(5)]

    async def go() -> None:
        first = world.provider()
        for machine_id in ids:
            await first.create(spec(machine_id))
        await world.clock.sleep(60)
        provider, before = world.provider(), world.run_api.count("executions.list")
        world.run_api.latency = 0.1
        found = await asyncio.gather(*(provider.get(machine_id) for machine_id in ids))
        assert [status.id for status in found if status is not None] == ids
        # The first who asks has a list; the others share the next.
        assert world.run_api.count("executions.list") - before <= 6
        assert sorted([status.id async for status in provider.list()]) == ids

    world.run(go())


def test_stop_cancels_what_another_dispatcher_began(world: RunWorld) -> None:
    async def go() -> None:
        await world.provider().create(spec("m-1"))
        other = world.provider()
        await other.stop("m-1", GRACE)
        await until_gone(world, other, "m-1")
        await other.stop("m-1", GRACE)

    world.run(go())
    assert world.running() == []


def test_stop_cancels_what_is_known_when_no_list_answers(world: RunWorld) -> None:
    async def go() -> None:
        provider = world.provider()
        await provider.create(spec("m-1"))
        world.run_api.faults.order(LIST, faults.RUN_BROKEN)
        with pytest.raises(Unreachable):
            await provider.stop("m-1", GRACE)
        await until_gone(world, provider, "m-1")

    world.run(go())
    assert world.running() == []


def test_cancel_of_an_execution_that_ended_meanwhile_is_fine(world: RunWorld) -> None:
    async def go() -> None:
        provider = world.provider()
        await provider.create(spec("m-1"))
        execution = world.run_api.executions[0]
        refused = faults.error(400, "The execution is already complete.", "", "FAILED_PRECONDITION")
        world.run_api.faults.order(CANCEL, Fault(refused))
        with pytest.raises(Rejected):
            await provider.stop("m-1", GRACE)
        assert execution.runs
        await provider.stop("m-1", GRACE)
        await until_gone(world, provider, "m-1")

    world.run(go())


def test_ended_execution_is_deleted_once_its_end_is_on_record() -> None:
    world = RunWorld(start=start)

    async def listed(provider: MachineProvider) -> None:
        assert [status async for status in provider.list()] == []
        await world.clock.sleep(10)

    async def go() -> None:
        provider = world.provider()
        await provider.create(world.spec("m-1", arguments=("exit", "7")))
        status = await until_gone(world, provider, "m-1")
        assert status.exit_code == 7
        await listed(provider)
        assert list(provider.ended) == ["m-1"]
        assert not world.run_api.executions[0].deleted
        provider.recorded(["m-1"])
        await listed(provider)
        assert world.run_api.executions[0].deleted
        assert await provider.get("m-1") is None

    world.run(go())
    assert world.run_api.violations == []


def test_stuck_bot_ends_at_the_tasks_timeout_without_a_dispatcher() -> None:
    world = RunWorld(start=start)
    world.run_api.jobs[f"{PARENT}/jobs/echo"] = Job(f"{PARENT}/jobs/echo", command=("/bin/ignores",))

    async def go() -> None:
        await world.provider().create(
            world.spec("m-1", arguments=(STAYS, ""), max_duration=timedelta(minutes=5))
        )
        began = world.clock.now()
        while world.run_api.living():
            await world.clock.sleep(1)
        assert 300 < world.clock.now() - began < 330

    world.run(go())


@pytest.mark.parametrize(
    ("execution", "task", "code"),
    [
        ({"succeededCount": 1}, {}, 0),
        ({"failedCount": 1}, {"lastAttemptResult": {"exitCode": 3}}, 3),
        ({"failedCount": 1}, {"lastAttemptResult": {"termSignal": 9}}, 137),
        ({"failedCount": 1}, {"lastAttemptResult": {"status": {"code": 2}}}, None),
        ({"cancelledCount": 1}, {}, None),
    ],
)
def test_exit_code(execution: dict[str, Any], task: dict[str, Any], code: int | None) -> None:
    assert exit_code_of(execution, [task]) == code


def test_close_ends_what_goes_on_without_a_warning(world: RunWorld, caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        provider = world.provider()
        await provider.prepare(())
        await provider.create(spec("m-1"))
        await provider.close()
        assert {task.get_name() for task in asyncio.all_tasks() if "_keep_one" in repr(task)} == set()

    world.run(go())
    assert caplog.text == ""


def test_log_is_where_google_keeps_it(world: RunWorld) -> None:
    provider = world.provider()

    async def go() -> None:
        await provider.create(spec("m-1"))
        with pytest.raises(Rejected, match=r'execution_name"="echo-00001".* --project my-project'):
            await provider.read_log("m-1", 100)
        with pytest.raises(Rejected, match="no longer knows the execution"):
            await provider.read_log("m-2", 100)

    world.run(go())
