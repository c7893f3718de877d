"""Google's own client libraries at the fakes: a stranger's reading of the API, over its REST transport.

The tests import them, which takes 2 s: each worker of a run imports this file, and one runs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.oauth2.credentials import Credentials

from tests.fly.wire import served
from tests.gcp import executions, instances
from tests.gcp.engine import PROJECT, ZONES, FakeEngine
from tests.gcp.run import PARENT, FakeRun
from tests.gcp.server import TOKEN

A, B = ZONES[:2]
JOB = f"{PARENT}/jobs/echo"
SOON: dict[str, Any] = {"provision": 0.05, "stage": 0.05, "boot": 0.05, "power_off": 0.05, "delete": 0.05}
COMMAND = '["timeout", "60", "run", ""]'


@pytest.fixture
def engine() -> Iterator[tuple[FakeEngine, ClientOptions]]:
    fake = FakeEngine(times=instances.Times(**SOON))
    with served(fake) as url:
        yield fake, ClientOptions(api_endpoint=url)
    assert fake.violations == []


@pytest.fixture
def run() -> Iterator[tuple[FakeRun, ClientOptions]]:
    fake = FakeRun(times=executions.Times(schedule=0.05, pull=0.05, finish=0.05))
    with served(fake) as url:
        yield fake, ClientOptions(api_endpoint=url)
    assert fake.violations == []


def test_compute_client_makes_shows_and_deletes_a_vm(engine: tuple[FakeEngine, ClientOptions]) -> None:
    from google.cloud import compute_v1

    options = {"credentials": Credentials(TOKEN), "client_options": engine[1]}
    client = compute_v1.InstancesClient(**options)
    operations = compute_v1.ZoneOperationsClient(**options)
    template = compute_v1.InstanceTemplatesClient(**options).get(project=PROJECT, instance_template="echo-1")
    wanted = compute_v1.Instance(
        name="calls-m-1",
        labels={"switchboard-deployment": "calls"},
        metadata=compute_v1.Metadata(
            items=[
                *template.properties.metadata.items,
                compute_v1.Items(key="switchboard-command", value=COMMAND),
                compute_v1.Items(key="switchboard-variables", value="{}"),
            ]
        ),
        scheduling=compute_v1.Scheduling(
            provisioning_model="STANDARD",
            max_run_duration=compute_v1.Duration(seconds=3600),
            instance_termination_action="DELETE",
            automatic_restart=False,
        ),
    )
    request = compute_v1.InsertInstanceRequest(
        project=PROJECT,
        zone=A,
        instance_resource=wanted,
        source_instance_template="global/instanceTemplates/echo-1",
        request_id="6f0c7d0e-58d4-4b0c-9d0b-5a1d4a1f3c52",
    )
    names = {client.insert(request).name for _ in range(2)}
    assert len(names) == 1
    done = operations.wait(project=PROJECT, zone=A, operation=names.pop())
    assert (done.status, done.error.errors) == (compute_v1.Operation.Status.DONE, [])
    words = compute_v1.ListInstancesRequest(
        project=PROJECT, zone=A, filter='labels.switchboard-deployment="calls"'
    )
    (shown,) = client.list(words)
    assert (shown.name, shown.status) == ("calls-m-1", "RUNNING")
    assert shown.scheduling.max_run_duration.seconds == 3600
    with pytest.raises(exceptions.NotFound):
        client.get(project=PROJECT, zone=B, instance="calls-m-1")
    deleting = client.delete(project=PROJECT, zone=A, instance="calls-m-1")
    done = operations.wait(project=PROJECT, zone=A, operation=deleting.name)
    assert done.status == compute_v1.Operation.Status.DONE
    assert list(client.list(words)) == []


def test_compute_client_reads_a_zone_without_capacity(engine: tuple[FakeEngine, ClientOptions]) -> None:
    from google.cloud import compute_v1

    fake, options = engine
    fake.times, fake.room[A] = instances.Times(**SOON, stockout=0.05), 0
    given = {"credentials": Credentials(TOKEN), "client_options": options}
    operation = compute_v1.InstancesClient(**given).insert(
        compute_v1.InsertInstanceRequest(
            project=PROJECT,
            zone=A,
            instance_resource=compute_v1.Instance(name="calls-m-1"),
            source_instance_template="global/instanceTemplates/echo-1",
        )
    )
    done = compute_v1.ZoneOperationsClient(**given).wait(project=PROJECT, zone=A, operation=operation.name)
    assert done.error.errors[0].code == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"


def test_run_client_runs_lists_and_cancels_an_execution(run: tuple[FakeRun, ClientOptions]) -> None:
    from google.cloud import run_v2

    fake, options = run
    given = {"credentials": Credentials(TOKEN), "transport": "rest", "client_options": options}
    client = run_v2.ExecutionsClient(**given)
    override = run_v2.RunJobRequest.Overrides.ContainerOverride(
        args=["timeout", "60", "run", ""], env=[run_v2.EnvVar(name="SWITCHBOARD_MACHINE_ID", value="m-1")]
    )
    overrides = run_v2.RunJobRequest.Overrides(
        task_count=1, timeout={"seconds": 3600}, container_overrides=[override]
    )
    operation = run_v2.JobsClient(**given).run_job(run_v2.RunJobRequest(name=JOB, overrides=overrides))
    name = f"{JOB}/executions/echo-00001"
    assert getattr(operation.metadata, "name", "") == name
    (shown,) = client.list_executions(parent=JOB)
    assert shown.name == name
    assert {one.name: one.value for one in shown.template.containers[0].env}[
        "SWITCHBOARD_MACHINE_ID"
    ] == "m-1"
    client.cancel_execution(name=name)
    asyncio.run(_until_complete(fake))
    ended = client.get_execution(name=name)
    assert ended.cancelled_count == 1
    assert ended.conditions[0].execution_reason == run_v2.Condition.ExecutionReason.CANCELLED
    assert [task.execution for task in run_v2.TasksClient(**given).list_tasks(parent=name)] == ["echo-00001"]
    with pytest.raises(exceptions.BadRequest):
        client.cancel_execution(name=name)
    client.delete_execution(name=name)
    assert list(client.list_executions(parent=JOB)) == []


async def _until_complete(fake: FakeRun) -> None:
    async with asyncio.timeout(10):
        while fake.living():
            await asyncio.sleep(0.01)
