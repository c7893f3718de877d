"""`python -m tests.bench.ecs`: starts at ECS as Markdown tables, at fakes of ECS and Daily, in real time.

First what a start takes when every outside call takes so long: ours, to a Daily room and a Fargate task, and
the obvious script, which makes its calls one after the other (create the room, get two tokens, run the task,
look at it every second until it runs). Tasks run at once: their time is the same for both.

Then how many starts there are under the published limits (20 tasks a second, 100 at once), and what callers
are told who ask for more. A caller asks once, waits for its machine to start, and hangs up after a while.

Last the processor's time of a start in the dispatcher, by provider, with machines that start at once.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from dispatcher.clock import SystemClock
from dispatcher.machines.cloud_run_jobs.client import RunApi
from dispatcher.machines.cloud_run_jobs.provider import CloudRunJobsProvider
from dispatcher.machines.cloud_run_jobs.request import Place as RunPlace
from dispatcher.machines.compute_engine.client import ComputeApi
from dispatcher.machines.compute_engine.provider import ComputeEngineProvider
from dispatcher.machines.compute_engine.request import Place as EnginePlace
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.connection import Connection
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.ecs.transport import session_over
from dispatcher.machines.google.api import GoogleApi
from dispatcher.machines.provider import Action, MachineProvider, Rate
from tests.bench.callers import (
    CALL_SECONDS,
    STARTS,
    ask,
    dispatcher,
    print_asked,
    print_heads,
    print_times,
    rooms_client,
    time_starts,
)
from tests.bench.fly import provider_at as fly_provider_at
from tests.daily.fake import FakeDaily
from tests.ecs.fake import CLUSTER, GROUP, REGION, SUBNETS, FakeEcs
from tests.ecs.rates import Limits
from tests.ecs.tasks import Times
from tests.ecs.world import KEY
from tests.fly.fake import FakeFly
from tests.fly.rates import Limits as FlyLimits
from tests.fly.wire import InProcess
from tests.gcp.engine import PROJECT, ZONES, FakeEngine
from tests.gcp.executions import Times as ExecutionTimes
from tests.gcp.instances import Times as VmTimes
from tests.gcp.run import REGION as RUN_REGION
from tests.gcp.run import FakeRun
from tests.gcp.world import GoodToken

AT_ONCE = Times(0.0, 0.0, 0.0, 30.0, 0.0)
RATES = (10.0, 20.0, 30.0, 60.0)
"""Starts that are asked for in a second."""
CPU_STARTS = 60
"""At once, within the burst of both providers' rates."""
FLY_APPS = tuple(f"bots-{number}" for number in range(100))
"""Of which each takes three starts at once."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.ecs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=30, help="of asking, in each row of table 2")
    parser.add_argument("--processor-only", action="store_true", help="leave tables 1 and 2 out")
    wanted = parser.parse_args()
    if not wanted.processor_only:
        asyncio.run(print_starts())
        print()
        asyncio.run(print_rates(wanted.seconds))
        print()
    asyncio.run(print_processor())
    return 0


async def print_starts() -> None:
    print_times(
        {
            "the obvious script: its calls in a row": await sequential(),
            "ours, `wait=started`: the task runs": await ours("started"),
            "ours, `wait=none`: the join URL, and the rest goes on": await ours("none"),
        }
    )


async def sequential() -> list[float]:
    """Time the obvious script's starts."""
    ecs, daily = fakes()
    rooms = rooms_client(daily)
    tasks = get_session().create_client(
        "ecs",
        region_name=REGION,
        endpoint_url="http://ecs.test",
        aws_access_key_id=KEY.key_id,
        aws_secret_access_key=KEY.secret,
        config=AioConfig(http_session_cls=session_over(InProcess(ecs))),
    )
    times = []
    async with rooms, tasks as untyped:
        client: Any = untyped
        for number in range(STARTS):
            began = time.perf_counter()
            room = (await rooms.post("/rooms", json={"name": f"room-{number}"})).raise_for_status()
            token = {"properties": {"room_name": room.json()["name"]}}
            for _ in ("the bot's", "the user's"):
                (await rooms.post("/meeting-tokens", json=token)).raise_for_status()
            network = {"awsvpcConfiguration": {"subnets": list(SUBNETS), "securityGroups": [GROUP]}}
            run = await client.run_task(
                cluster=CLUSTER,
                taskDefinition="echo:1",
                launchType="FARGATE",
                startedBy=f"script/{number}",
                networkConfiguration=network,
                overrides={"containerOverrides": [{"name": "bot", "command": ["python", "bot.py"]}]},
            )
            arn = run["tasks"][0]["taskArn"]
            while True:
                shown = await client.describe_tasks(cluster=CLUSTER, tasks=[arn])
                if shown["tasks"][0]["lastStatus"] == "RUNNING":
                    break
                await asyncio.sleep(1)
            times.append(time.perf_counter() - began)
    await ecs.close()
    return times


async def ours(wait: str) -> list[float]:
    ecs, daily = fakes()
    async with dispatcher(provider_at(ecs), "ecs", daily) as client:
        # In the pause the one before ends its calls.
        times = await time_starts(client, wait, pause=2)
    await ecs.close()
    assert ecs.violations == []
    return times


def fakes() -> tuple[FakeEcs, FakeDaily]:
    clock = SystemClock()
    ecs = FakeEcs(clock=clock, latency=CALL_SECONDS, times=AT_ONCE)
    return ecs, FakeDaily(clock, seconds=lambda: CALL_SECONDS)


async def print_rates(seconds: float) -> None:
    print_heads(["asked per s"])
    for rate in RATES:
        ecs = FakeEcs(latency=0.05, times=Times(0.5, 0.5, 0.2, 30.0, 1.0))
        async with dispatcher(provider_at(ecs), "ecs") as client:
            print_asked([f"{rate:g}"], await ask(client, rate, seconds))
        await ecs.close()
        assert ecs.violations == []


async def print_processor() -> None:
    print(f"| provider | CPU of a start, of {CPU_STARTS}, with its fake |")
    print("|---|---:|")

    def fly() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeFly(SystemClock(), limits=FlyLimits(None))
        for app in FLY_APPS:
            fake.app(app)
        fake.prepare_seconds = fake.boot_seconds = 0.0
        return fly_provider_at(fake, FLY_APPS), fake.close

    def ecs() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeEcs(limits=Limits(enabled=False), times=AT_ONCE, validates=False)

        async def close() -> None:
            await fake.close()
            assert fake.violations == []

        return provider_at(fake), close

    def compute_engine() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeEngine(times=VmTimes(provision=0.0, stage=0.0, boot=0.0))
        fake.validates = False
        return compute_engine_at(fake), fake.close

    def cloud_run_jobs() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeRun(times=ExecutionTimes(schedule=0.0, pull=0.0))
        fake.validates = False
        return cloud_run_jobs_at(fake), fake.close

    made = {"fly": fly, "ecs": ecs, "compute-engine": compute_engine, "cloud-run-jobs": cloud_run_jobs}
    for name, make in made.items():
        provider, close = make()
        async with dispatcher(provider, name) as client:
            await start(client)
            began = time.process_time()
            await asyncio.gather(*(start(client) for _ in range(CPU_STARTS)))
            each = (time.process_time() - began) / CPU_STARTS
        await close()
        print(f"| {name} | {each * 1000:.1f} ms |", flush=True)


async def start(client: httpx.AsyncClient) -> None:
    (await client.post("/start", params={"wait": "started"})).raise_for_status()


def provider_at(ecs: FakeEcs) -> EcsProvider:
    clock = SystemClock()
    connection = Connection(
        region=REGION, clock=clock, url="http://ecs.test", credentials=KEY, transport=InProcess(ecs)
    )
    api = EcsApi(connection, CLUSTER, clock)
    place = Place(
        deployment="bench",
        cluster=CLUSTER,
        subnets=tuple(SUBNETS),
        security_groups=(GROUP,),
        task_definitions={"echo": "echo:1"},
    )
    return EcsProvider(api, place)


def compute_engine_at(fake: FakeEngine) -> ComputeEngineProvider:
    url = "http://compute.test/compute/v1"
    api = GoogleApi("Compute Engine", url, GoodToken(), SystemClock(), {}, InProcess(fake))
    place = EnginePlace("bench", PROJECT, ZONES[:2], {"echo": "echo-1"})
    return ComputeEngineProvider(ComputeApi(api, PROJECT), place)


class Unlimited(CloudRunJobsProvider):
    """Publishes no rates, which 60 starts at once are over."""

    @property
    def rates(self) -> Mapping[Action, Rate]:
        return {}


def cloud_run_jobs_at(fake: FakeRun) -> CloudRunJobsProvider:
    api = GoogleApi("Cloud Run", "http://run.test/v2", GoodToken(), SystemClock(), {}, InProcess(fake))
    return Unlimited(RunApi(api), RunPlace("bench", PROJECT, RUN_REGION, {"echo": "echo"}))


if __name__ == "__main__":
    raise SystemExit(main())
