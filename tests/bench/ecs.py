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
import contextlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.provider import EcsProvider
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.ecs.transport import session_over
from dispatcher.machines.fly.provider import FlyProvider
from dispatcher.machines.fly.settings import FlyTokens
from dispatcher.machines.provider import MachineProvider
from dispatcher.settings import AgentSettings, Settings
from tests.bench.fly import CALL_SECONDS, TALK_SECONDS, Asked, at
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, InPlaceOfTheNetwork
from tests.ecs.fake import CLUSTER, GROUP, REGION, SUBNETS, FakeEcs
from tests.ecs.rates import Limits
from tests.ecs.tasks import Times
from tests.ecs.world import KEY
from tests.fly.fake import FakeFly
from tests.fly.rates import Limits as FlyLimits
from tests.fly.wire import InProcess
from tests.fly.world import IMAGE

STARTS = 10
AT_ONCE = Times(0.0, 0.0, 0.0, 30.0, 0.0)
RATES = (10.0, 20.0, 30.0, 60.0)
"""Starts that are asked for in a second."""
DEFAULT_DELAY = AgentSettings.model_fields["max_start_delay_seconds"].default
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
    print(f"| a start, every outside call {CALL_SECONDS * 1000:.0f} ms | median | slowest of {STARTS} |")
    print("|---|---:|---:|")
    rows = {
        "the obvious script: its calls in a row": await sequential(),
        "ours, `wait=started`: the task runs": await ours("started"),
        "ours, `wait=none`: the join URL, and the rest goes on": await ours("none"),
    }
    first = statistics.median(next(iter(rows.values())))
    for words, times in rows.items():
        middle = statistics.median(times)
        print(f"| {words} | {middle * 1000:.0f} ms ({first / middle:.1f} ×) | {max(times) * 1000:.0f} ms |")


async def sequential() -> list[float]:
    """Time the obvious script's starts."""
    ecs, daily = fakes()
    headers = {"Authorization": f"Bearer {API_KEY}"}
    rooms = httpx.AsyncClient(
        transport=InPlaceOfTheNetwork(daily), base_url="https://api.daily.co/v1", headers=headers
    )
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
    times = []
    async with dispatcher(provider_at(ecs), daily=daily) as client:
        for _ in range(STARTS):
            began = time.perf_counter()
            answer = (await client.post("/start", params={"wait": wait})).raise_for_status()
            times.append(time.perf_counter() - began)
            assert answer.json()["dailyRoom"].startswith(f"https://{DOMAIN}.daily.co/")
            # The one before has ended its calls.
            await asyncio.sleep(2)
    await ecs.close()
    assert ecs.violations == []
    return times


def fakes() -> tuple[FakeEcs, FakeDaily]:
    clock = SystemClock()
    ecs = FakeEcs(clock=clock, latency=CALL_SECONDS, times=AT_ONCE)
    return ecs, FakeDaily(clock, seconds=lambda: CALL_SECONDS)


async def print_rates(seconds: float) -> None:
    heads = [
        "asked per s",
        "started",
        "per s",
        "p50",
        "p99",
        "turned away",
        "with",
        "after",
        "told to retry in",
    ]
    print(f"| {' | '.join(heads)} |")
    print("|---:" * 6 + "|---|---:|---:|")
    for rate in RATES:
        asked = await ask(rate, seconds)
        started = [one for one in asked if one.status == 200]
        away = [one for one in asked if one.status != 200]
        span = max(one.at + one.seconds for one in started)
        times = sorted(one.seconds for one in started)
        cells = [f"{rate:g}", str(len(started)), f"{len(started) / span:.1f}"]
        cells += [f"{at(times, 0.5):.1f} s", f"{at(times, 0.99):.1f} s", str(len(away))]
        said = Counter(f"{one.status} `{one.code}`" for one in away)
        cells.append(", ".join(words for words, _ in said.most_common()))
        cells.append(f"{statistics.median(one.seconds for one in away):.1f} s" if away else "")
        waits = [one.retry_after for one in away]
        cells.append(f"{min(waits):.0f} to {max(waits):.0f} s" if away else "")
        print(f"| {' | '.join(cells)} |", flush=True)


async def ask(rate: float, seconds: float) -> list[Asked]:
    """Return what became of callers at even intervals, for so long."""
    ecs = FakeEcs(latency=0.05, times=Times(0.5, 0.5, 0.2, 30.0, 1.0))
    async with dispatcher(provider_at(ecs)) as client:
        began = time.perf_counter()

        async def call(number: int) -> Asked:
            await asyncio.sleep(number / rate)
            asked_at = time.perf_counter()
            answer = await client.post("/start", params={"wait": "started"})
            took, said = time.perf_counter() - asked_at, answer.json()
            if answer.status_code == 200:
                await asyncio.sleep(TALK_SECONDS)
                await client.delete(f"/sessions/{said['sessionId']}")
            retry_after = float(answer.headers.get("retry-after", 0))
            return Asked(asked_at - began, took, answer.status_code, said.get("code", ""), retry_after)

        asked = await asyncio.gather(*(call(number) for number in range(round(rate * seconds))))
    await ecs.close()
    assert ecs.violations == []
    return list(asked)


async def print_processor() -> None:
    print(f"| provider | CPU of a start, of {CPU_STARTS}, with its fake |")
    print("|---|---:|")

    def fly() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeFly(SystemClock(), limits=FlyLimits(None))
        for app in FLY_APPS:
            fake.app(app)
        fake.prepare_seconds = fake.boot_seconds = 0.0
        made = FlyProvider(
            url="http://fly.test",
            tokens=FlyTokens(fake.token(*FLY_APPS)),
            deployment="bench",
            apps=FLY_APPS,
            transport=InProcess(fake),
        )
        return made, fake.close

    def ecs() -> tuple[MachineProvider, Callable[[], Awaitable[object]]]:
        fake = FakeEcs(limits=Limits(enabled=False), times=AT_ONCE, validates=False)

        async def close() -> None:
            await fake.close()
            assert fake.violations == []

        return provider_at(fake), close

    for name, make in {"fly": fly, "ecs": ecs}.items():
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
    api = EcsApi(
        region=REGION,
        cluster=CLUSTER,
        clock=SystemClock(),
        url="http://ecs.test",
        credentials=KEY,
        transport=InProcess(ecs),
    )
    place = Place(
        deployment="bench",
        cluster=CLUSTER,
        subnets=tuple(SUBNETS),
        security_groups=(GROUP,),
        task_definitions={"echo": "echo:1"},
    )
    return EcsProvider(api, place)


@contextlib.asynccontextmanager
async def dispatcher(
    provider: MachineProvider, name: str = "ecs", daily: FakeDaily | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A whole dispatcher in this process, and a client of it. There is no network at all."""
    with tempfile.TemporaryDirectory() as directory:
        agent = {"bot": "/app/bot.py", "image": IMAGE, "maxSessions": 10_000}
        transports = {} if daily is None else {"transports": ["daily"]}
        settings = Settings.model_validate(
            {
                "data_dir": Path(directory),
                "agents": {"echo": agent | transports},
                "daily_api_key": None if daily is None else API_KEY,
                "daily_domain": None if daily is None else DOMAIN,
                "daily_domain_id": None if daily is None else DOMAIN_ID,
            }
        )
        network = None if daily is None else InPlaceOfTheNetwork(daily)
        made = build(settings, providers={name: provider}, environment={}, daily=network)
        async with (
            made.app.router.lifespan_context(made.app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(made.app), base_url="http://127.0.0.1:7860", timeout=90
            ) as client,
        ):
            yield client


if __name__ == "__main__":
    raise SystemExit(main())
