"""Measure starts at a vendor's fake: a whole dispatcher in this process, its callers, and their tables."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from dispatcher.app import build
from dispatcher.machines.provider import MachineProvider
from dispatcher.settings import AgentSettings, Settings
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, FakeDaily, InPlaceOfTheNetwork
from tests.fly.world import IMAGE

STARTS = 10
CALL_SECONDS = 0.15
DEFAULT_DELAY = AgentSettings.model_fields["max_start_delay_seconds"].default

TALK_SECONDS = 10.0
"""Time after which a caller hangs up."""


@dataclass(frozen=True)
class Asked:
    """Outcome of one caller. Times are in seconds."""

    at: float
    seconds: float
    status: int
    code: str
    retry_after: float


@contextlib.asynccontextmanager
async def dispatcher(
    provider: MachineProvider, name: str, daily: FakeDaily | None = None, delay: float = DEFAULT_DELAY
) -> AsyncIterator[httpx.AsyncClient]:
    """Run a whole dispatcher in this process, and give a client of it. There is no network at all.

    Args:
        name: The provider's.
        delay: Longest time that a start waits for its turn, in seconds.
    """
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
        made = build(settings, providers={name: provider}, environment={}, rooms_api=network)
        async with (
            made.app.router.lifespan_context(made.app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(made.app), base_url="http://127.0.0.1:7860", timeout=90
            ) as client,
        ):
            yield client


def rooms_client(daily: FakeDaily) -> httpx.AsyncClient:
    """Return a client of Daily's API, as a script has it."""
    return httpx.AsyncClient(
        transport=InPlaceOfTheNetwork(daily),
        base_url="https://api.daily.co/v1",
        headers={"Authorization": f"Bearer {API_KEY}"},
    )


async def time_starts(client: httpx.AsyncClient, wait: str, pause: float) -> list[float]:
    """Return the seconds of `STARTS` starts, one after the other, with a pause after each."""
    times = []
    for _ in range(STARTS):
        began = time.perf_counter()
        answer = (await client.post("/start", params={"wait": wait})).raise_for_status()
        times.append(time.perf_counter() - began)
        assert answer.json()["dailyRoom"].startswith(f"https://{DOMAIN}.daily.co/")
        await asyncio.sleep(pause)
    return times


def print_times(rows: Mapping[str, Sequence[float]]) -> None:
    """Print the table of ways to start, compared with the first."""
    print(f"| a start, every outside call {CALL_SECONDS * 1000:.0f} ms | median | slowest of {STARTS} |")
    print("|---|---:|---:|")
    first = statistics.median(next(iter(rows.values())))
    for words, times in rows.items():
        middle = statistics.median(times)
        print(f"| {words} | {middle * 1000:.0f} ms ({first / middle:.1f} ×) | {max(times) * 1000:.0f} ms |")


async def ask(client: httpx.AsyncClient, rate: float, seconds: float) -> list[Asked]:
    """Return what became of callers at even intervals, for so long.

    A caller asks once, waits for its machine to start, and hangs up after `TALK_SECONDS`.
    """
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

    return list(await asyncio.gather(*(call(number) for number in range(round(rate * seconds)))))


def print_heads(heads: Sequence[str]) -> None:
    """Print the head of the table of rates; `heads` are the columns before those of `print_asked`."""
    rates = ("started", "per s", "p50", "p99", "turned away", "with", "after", "told to retry in")
    print(f"| {' | '.join((*heads, *rates))} |")
    print("|---:" * (len(heads) + 5) + "|---|---:|---:|")


def print_asked(cells: Sequence[str], asked: Sequence[Asked]) -> None:
    """Print a row of the table of rates; `cells` are those of the heads that `print_heads` was given."""
    started = [one for one in asked if one.status == 200]
    away = [one for one in asked if one.status != 200]
    span = max(one.at + one.seconds for one in started)
    times = sorted(one.seconds for one in started)
    row = [*cells, str(len(started)), f"{len(started) / span:.1f}"]
    row += [f"{_at(times, 0.5):.1f} s", f"{_at(times, 0.99):.1f} s", str(len(away))]
    said = Counter(f"{one.status} `{one.code}`" for one in away)
    row.append(", ".join(words for words, _ in said.most_common()))
    row.append(f"{statistics.median(one.seconds for one in away):.1f} s" if away else "")
    waits = [one.retry_after for one in away]
    row.append(f"{min(waits):.0f} to {max(waits):.0f} s" if away else "")
    print(f"| {' | '.join(row)} |", flush=True)


def _at(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(share * len(times)))]
