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
import itertools
import time

import httpx

from dispatcher.clock import SystemClock
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.fly.provider import FlyProvider
from tests.bench.callers import (
    CALL_SECONDS,
    DEFAULT_DELAY,
    STARTS,
    Asked,
    ask,
    dispatcher,
    print_asked,
    print_heads,
    print_times,
    rooms_client,
    time_starts,
)
from tests.daily.fake import FakeDaily
from tests.fly.fake import FakeFly, bearer
from tests.fly.rates import Limits
from tests.fly.wire import InProcess
from tests.fly.world import IMAGE

PAUSE_SECONDS = 1.0
"""Between two starts: so often does Fly create a machine in an app."""

LOADS = (0.75, 1.0, 1.2, 2.0, 3.0)
"""Starts that are asked for, by those that can be had: one a second in each app."""

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
    print_times(
        {
            "the sample: six calls in a row": await sequential(),
            "ours, `wait=started`: the machine has started": await ours("started"),
            "ours, `wait=none`: the join URL, and the rest goes on": await ours("none"),
        }
    )


async def sequential() -> list[float]:
    """Time the sample's starts."""
    clock = SystemClock()
    fly, daily = fakes(clock)
    room_client = rooms_client(daily)
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
    async with dispatcher(provider_at(fly, ("bots",)), "fly", daily) as client:
        times = await time_starts(client, wait, PAUSE_SECONDS)
    await fly.close()
    return times


def fakes(clock: SystemClock) -> tuple[FakeFly, FakeDaily]:
    fly = FakeFly(clock, limits=Limits(None))
    fly.app("bots")
    fly.latency = CALL_SECONDS
    fly.prepare_seconds = fly.boot_seconds = 0.0
    return fly, FakeDaily(clock, seconds=lambda: CALL_SECONDS)


async def print_rates(seconds: float) -> None:
    print_heads(["bot apps", "longest delay", "asked per s"])
    for apps, load, delay in itertools.product((1, 8), LOADS, DELAYS):
        if load <= 1 and delay != DEFAULT_DELAY:
            continue
        rate = apps * load
        asked = await ask_at(apps, rate, seconds, delay)
        print_asked([str(apps), f"{delay:g} s", f"{rate:.3g}"], asked)


async def ask_at(apps: int, rate: float, seconds: float, delay: float) -> list[Asked]:
    """Return what became of callers at a dispatcher with so many apps."""
    fly = FakeFly(SystemClock())
    names = tuple(f"bots-{number}" for number in range(apps))
    for name in names:
        fly.app(name)
    fly.latency, fly.boot_seconds = SMALL_CALL_SECONDS, BOOT_SECONDS
    async with dispatcher(provider_at(fly, names), "fly", delay=delay) as client:
        asked = await ask(client, rate, seconds)
    await fly.close()
    assert fly.violations == []
    return asked


def provider_at(fly: FakeFly, apps: tuple[str, ...]) -> FlyProvider:
    return FlyProvider(
        url="http://fly.test",
        tokens=FlyTokens(fly.token(*apps)),
        deployment="bench",
        apps=apps,
        transport=InProcess(fly),
    )


if __name__ == "__main__":
    raise SystemExit(main())
