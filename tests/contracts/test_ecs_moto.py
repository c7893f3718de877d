"""Machines at moto's ECS, where moto is right: what the fake believes of the API is not the fake's alone.

moto gives a second task for a client token, never says MISSING or why a task stopped, and has no
PROVISIONING: what depends on these is checked at the fake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import boto3
import pytest
from moto.moto_api import state_manager
from moto.server import ThreadedMotoServer

from dispatcher.clock import SystemClock
from dispatcher.domain.model import MachineStatus
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.connection import Connection
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.provider import MachineProvider, MachineSpec
from tests.contracts.conformance import CHECKS
from tests.contracts.harness import Harness
from tests.ecs.world import KEY, spec
from tests.ports import free_port

T = TypeVar("T")

REGION, CLUSTER = "eu-central-1", "bots"

RIGHT = (
    "a_list_contains_what_was_created_and_nothing_that_is_gone",
    "an_unknown_machine_is_none",
    "a_stopped_machine_is_gone_and_stopping_it_again_is_fine",
    "stopping_an_unknown_machine_is_fine",
)
"""Checks that need nothing of what moto has not."""


class AtMoto(Harness):
    """A deployment at moto's server, in real time."""

    deadline_kept_by = "reaper"
    tells_exit_codes = False
    log_is_elsewhere = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._ecs = self._client("ecs")
        self._ecs.create_cluster(clusterName=CLUSTER)
        self._ecs.register_task_definition(
            family="echo",
            networkMode="awsvpc",
            requiresCompatibilities=["FARGATE"],
            cpu="1024",
            memory="2048",
            containerDefinitions=[
                # Without `memory`, which Fargate does not need here, moto fails.
                {"name": "bot", "image": "bots", "memory": 2048, "entryPoint": ["/usr/bin/env"]}
            ],
        )
        ec2 = self._client("ec2")
        subnets = [one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]]
        (group, *_) = [one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]]
        self._place = Place(
            deployment="calls",
            cluster=CLUSTER,
            subnets=tuple(subnets),
            security_groups=(group,),
            task_definitions={"echo": "echo:1"},
        )
        self._made: list[EcsProvider] = []

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self._url,
            aws_access_key_id=KEY.key_id,
            aws_secret_access_key=KEY.secret,
        )

    def provider(self) -> EcsProvider:
        clock = SystemClock()
        connection = Connection(region=REGION, clock=clock, url=self._url, credentials=KEY)
        self._made.append(EcsProvider(EcsApi(connection, CLUSTER, clock), self._place, clock))
        return self._made[-1]

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        return spec(machine_id)

    async def running(self) -> list[str]:
        arns = self._ecs.list_tasks(cluster=CLUSTER, desiredStatus="RUNNING")["taskArns"]
        shown = self._ecs.describe_tasks(cluster=CLUSTER, tasks=arns)["tasks"] if arns else []
        return [one["startedBy"].partition("/")[2] for one in shown]

    async def look_up(self, provider: MachineProvider, machine_id: str) -> MachineStatus | None:
        """moto is consistent at once."""
        return await provider.get(machine_id)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def and_close() -> T:
            try:
                return await work
            finally:
                # Another check runs on another event loop.
                while self._made:
                    await self._made.pop().close()

        return asyncio.run(and_close())

    def now(self) -> float:
        return SystemClock().now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        raise NotImplementedError

    def hostile(self, machine_id: str) -> MachineSpec:
        raise NotImplementedError

    async def harms(self, machine_id: str) -> bool:
        raise NotImplementedError

    def neighbour(self) -> Harness:
        raise NotImplementedError

    def filtering_nothing(self) -> AbstractContextManager[object]:
        raise NotImplementedError

    def answering(self, asked: str, shown: str) -> AbstractContextManager[object]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def at_moto() -> Iterator[AtMoto]:
    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    # By default each DescribeTasks moves a task on, to its end at last.
    state_manager.set_transition("ecs::task", {"progression": "time", "seconds": 3600})
    try:
        yield AtMoto("http://{}:{}".format(*server.get_host_and_port()))
    finally:
        state_manager.unset_transition("ecs::task")
        server.stop()


@pytest.mark.parametrize("check", RIGHT)
def test_machines_at_moto_keep_the_contract(check: str, at_moto: AtMoto) -> None:
    at_moto.run(CHECKS[check](at_moto))


def test_a_restarted_provider_finds_a_machine_by_who_started_it(at_moto: AtMoto) -> None:
    async def restart() -> None:
        await at_moto.provider().create(at_moto.spec("m-known-1"))
        status = await at_moto.provider().get("m-known-1")
        assert status is not None
        await at_moto.provider().stop("m-known-1", timedelta(0))
        assert await at_moto.running() == []

    at_moto.run(restart())
