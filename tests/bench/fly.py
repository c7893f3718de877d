"""`python -m tests.bench.fly`: starts at Fly, as Markdown tables. At the fakes of Fly and Daily, in real
time.

First what a start takes when every outside call takes so long: ours, to a Daily room and a machine at Fly,
and the sequence of the public sample, which makes its calls one after the other (create the room, get a
token, list machines, create a machine, wait for it, get a token). Machines boot at once: their time is the
same for both.

Then how many starts there are under Fly's published limits, with few bot apps and with many, and what callers
are told when they ask for 1.2, 2 and 3 times as many: with the default `maxStartDelaySeconds`, and with one
that is longer than the start's deadline, which fills the waiting room. A caller asks once, waits for its
machine to start, and hangs up after a while.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from dispatcher.app import build
from dispatcher.clock import SystemClock
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.fly.provider import FlyProvider
from dispatcher.settings import AgentSettings, Settings
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, InPlaceOfTheNetwork
from tests.fly.fake import FakeFly, bearer
from tests.fly.rates import Limits
from tests.fly.wire import InProcess
from tests.fly.world import IMAGE

CALL_SECONDS = 0.15
STARTS = 10

PAUSE_SECONDS = 1.0
"""Between two starts: so often does Fly create a machine in an app."""

TALK_SECONDS = 10.0
"""After so long a caller hangs up."""

LOADS = (0.75, 1.0, 1.2, 2.0, 3.0)
"""Starts that are asked for, by those that can be had: one a second in each app."""

DEFAULT_DELAY = AgentSettings.model_fields["max_start_delay_seconds"].default
DELAYS = (DEFAULT_DELAY, 600.0)

SMALL_CALL_SECONDS, BOOT_SECONDS = 0.05, 0.5
"""Of the second table: an outside call, and a machine's boot."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.fly",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="of asking, in each row of table 2")
    parser.add_argument("--rates-only", action="store_true", help="leave table 1 out")
    wanted = parser.parse_args()
    if not wanted.rates_only:
        asyncio.run(print_starts())
        print()
    asyncio.run(print_rates(wanted.seconds))
    return 0


async def print_starts() -> None:
    print(f"| a start, every outside call {CALL_SECONDS * 1000:.0f} ms | median | slowest of {STARTS} |")
    print("|---|---:|---:|")
    rows = {
        "the sample: six calls in a row": await sequential(),
        "ours, `wait=started`: the machine has started": await ours("started"),
        "ours, `wait=none`: the join URL, and the rest goes on": await ours("none"),
    }
    first = statistics.median(next(iter(rows.values())))
    for words, times in rows.items():
        middle = statistics.median(times)
        print(f"| {words} | {middle * 1000:.0f} ms ({first / middle:.1f} ×) | {max(times) * 1000:.0f} ms |")


async def sequential() -> list[float]:
    """What the sample does for each start."""
    clock = SystemClock()
    fly, daily = fakes(clock)
    headers = {"Authorization": f"Bearer {API_KEY}"}
    room_client = httpx.AsyncClient(
        transport=InPlaceOfTheNetwork(daily), base_url="https://api.daily.co/v1", headers=headers
    )
    machines = "/v1/apps/bots/machines"
    fly_client = httpx.AsyncClient(
        transport=InProcess(fly), base_url="http://fly.test", headers=bearer(fly.token("bots")), timeout=30
    )
    times = []
    async with room_client, fly_client:
        for number in range(STARTS):
            began = time.perf_counter()
            room = (await room_client.post("/rooms", json={"name": f"room-{number}"})).raise_for_status()
            token = {"properties": {"room_name": room.json()["name"]}}
            (await room_client.post("/meeting-tokens", json=token)).raise_for_status()
            (await fly_client.get(machines)).raise_for_status()
            body = {"config": {"image": IMAGE, "auto_destroy": True}}
            machine = (await fly_client.post(machines, json=body)).raise_for_status().json()
            path, params = f"{machines}/{machine['id']}/wait", {"state": "started"}
            (await fly_client.get(path, params=params)).raise_for_status()
            (await room_client.post("/meeting-tokens", json=token)).raise_for_status()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE_SECONDS)
    await fly.close()
    return times


async def ours(wait: str) -> list[float]:
    fly, daily = fakes(SystemClock())
    times = []
    async with dispatcher(fly, ("bots",), daily) as client:
        for _ in range(STARTS):
            began = time.perf_counter()
            answer = (await client.post("/start", params={"wait": wait})).raise_for_status()
            times.append(time.perf_counter() - began)
            assert answer.json()["dailyRoom"].startswith(f"https://{DOMAIN}.daily.co/")
            await asyncio.sleep(PAUSE_SECONDS)
    return times


def fakes(clock: SystemClock) -> tuple[FakeFly, FakeDaily]:
    fly = FakeFly(clock, limits=Limits(None))
    fly.app("bots")
    fly.latency = CALL_SECONDS
    fly.prepare_seconds = fly.boot_seconds = 0.0
    return fly, FakeDaily(clock, seconds=lambda: CALL_SECONDS)


@dataclass(frozen=True)
class Asked:
    """What became of a caller. Times are in seconds."""

    at: float
    seconds: float
    status: int
    code: str
    retry_after: float


async def print_rates(seconds: float) -> None:
    heads = ["bot apps", "longest delay", "asked per s", "started", "per s", "p50", "p99"]
    heads += ["turned away", "with", "after", "told to retry in"]
    print(f"| {' | '.join(heads)} |")
    print("|---:" * 8 + "|---|---:|---:|")
    for apps, load, delay in itertools.product((1, 8), LOADS, DELAYS):
        if load <= 1 and delay != DEFAULT_DELAY:
            continue
        rate = apps * load
        asked = await ask(apps, rate, seconds, delay)
        started = [one for one in asked if one.status == 200]
        away = [one for one in asked if one.status != 200]
        span = max(one.at + one.seconds for one in started)
        times = sorted(one.seconds for one in started)
        cells = [str(apps), f"{delay:g} s", f"{rate:.3g}", str(len(started)), f"{len(started) / span:.1f}"]
        cells += [f"{at(times, 0.5):.1f} s", f"{at(times, 0.99):.1f} s", str(len(away))]
        said = Counter(f"{one.status} `{one.code}`" for one in away)
        cells.append(", ".join(words for words, _ in said.most_common()))
        cells.append(f"{statistics.median(one.seconds for one in away):.1f} s" if away else "")
        waits = [one.retry_after for one in away]
        cells.append(f"{min(waits):.0f} to {max(waits):.0f} s" if away else "")
        print(f"| {' | '.join(cells)} |", flush=True)


def at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(share * len(times)))]


async def ask(apps: int, rate: float, seconds: float, delay: float) -> list[Asked]:
    """Callers at even intervals, for so long."""
    fly = FakeFly(SystemClock())
    names = tuple(f"bots-{number}" for number in range(apps))
    for name in names:
        fly.app(name)
    fly.latency, fly.boot_seconds = SMALL_CALL_SECONDS, BOOT_SECONDS
    async with dispatcher(fly, names, delay=delay) as client:
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
    assert fly.violations == []
    return list(asked)


@contextlib.asynccontextmanager
async def dispatcher(
    fly: FakeFly, apps: tuple[str, ...], daily: FakeDaily | None = None, delay: float = DEFAULT_DELAY
) -> AsyncIterator[httpx.AsyncClient]:
    """A whole dispatcher in this process, and a client of it. There is no network at all."""
    provider = FlyProvider(
        url="http://fly.test",
        tokens=FlyTokens(fly.token(*apps)),
        deployment="bench",
        apps=apps,
        transport=InProcess(fly),
    )
    with tempfile.TemporaryDirectory() as directory:
        agent = {"bot": "/app/bot.py", "image": IMAGE, "maxSessions": 10_000, "maxStartDelaySeconds": delay}
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
        made = build(settings, providers={"fly": provider}, environment={}, daily=network)
        async with (
            made.app.router.lifespan_context(made.app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(made.app), base_url="http://127.0.0.1:7860", timeout=90
            ) as client,
        ):
            yield client
        await fly.close()


if __name__ == "__main__":
    raise SystemExit(main())
