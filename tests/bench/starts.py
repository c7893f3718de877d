"""`python -m tests.bench.starts`: what a start costs the dispatcher, as a Markdown table.

A dispatcher on one core, with a machines API that answers at once, gets so many starts per second, evenly
spaced, whether or not the earlier ones were answered; a tenth as many requests for `/healthz` come between
them, which tell what HTTP alone takes in the same run. No session ends meanwhile, and its machine is taken
for one that talks: what channels cost, `tests.bench.channels` tells. Times are the client's, to the answer;
the CPU time is all that the dispatcher took, by the number of starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
import httpx
import psutil

from tests.bench.past import fill
from tests.e2e.dispatcher import CHECKOUT
from tests.ports import free_port
from tests.postgres import Postgres

STARTS_PER_SECOND = 200

STARTS_PER_PROBE = 10
"""So many starts come to one request for `/healthz`: enough of these, and no load of their own."""

SECRET = "a secret of the bench, long enough for HS256"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.starts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=STARTS_PER_SECOND, help="starts per second")
    parser.add_argument(
        "--before",
        type=pair,
        nargs="*",
        default=[(0, 0)],
        metavar="LIVE:PAST",
        help="sessions that live, and that are over, before the first start (default: 0:0)",
    )
    parser.add_argument(
        "--store", choices=["sqlite", "postgresql"], nargs="*", default=["sqlite", "postgresql"]
    )
    wanted = parser.parse_args()
    heads = ["store", "live before", "past before", "starts per s", "start, p50", "p99", "slowest"]
    heads += ["HTTP alone, p50", "p99", "CPU per start"]
    print(f"| {' | '.join(heads)} |")
    print(f"|---{'|---:' * (len(heads) - 1)}|")
    for store in wanted.store:
        for live, past in wanted.before:
            with ExitStack() as stack:
                url, process = stack.enter_context(dispatcher_on(store, live, past))
                time.sleep(2)
                before = sum(process.cpu_times()[:2])
                starts, health = asyncio.run(load(url, wanted.rate, wanted.seconds))
                cost = (sum(process.cpu_times()[:2]) - before) / len(starts)
            cells = [store, f"{live:,}", f"{past:,}", f"{wanted.rate:g}", *columns(starts), max_ms(starts)]
            cells += [*columns(health), f"{cost * 1000:.2f} ms"]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def pair(text: str) -> tuple[int, int]:
    """`100:0`: two whole numbers."""
    live, past = text.split(":")
    return int(live), int(past)


async def load(url: str, rate: float, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of each start and of each request in between."""
    starts: list[float] = []
    health: list[float] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as client:

        async def one(method: str, path: str, times: list[float]) -> None:
            begun = time.perf_counter()
            async with client.request(method, path, json={} if method == "POST" else None) as answer:
                body = await answer.read()
                assert answer.status == 200, body
            times.append(time.perf_counter() - begun)

        tasks = []
        begin = time.perf_counter() + 0.5
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one("POST", "/start?wait=started", starts)))
            if number % STARTS_PER_PROBE == 0:
                await asyncio.sleep(max(0.0, begin + (number + 0.5) / rate - time.perf_counter()))
                tasks.append(asyncio.create_task(one("GET", "/healthz", health)))
        await asyncio.gather(*tasks)
    return starts, health


def columns(times: Sequence[float]) -> list[str]:
    percent = statistics.quantiles(times, n=100)
    return [f"{percent[49] * 1000:.1f} ms", f"{percent[98] * 1000:.1f} ms"]


def max_ms(times: Sequence[float]) -> str:
    return f"{max(times) * 1000:.0f} ms"


@contextmanager
def dispatcher_on(store: str, live: int, past: int) -> Iterator[tuple[str, psutil.Process]]:
    """A dispatcher on the first core, with so many sessions in its store; gives its URL and its process."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        if store == "postgresql":
            postgres = stack.enter_context(Postgres(durable=True))
            database = postgres.create_database()
        else:
            database = f"sqlite:///{directory / 'bench.sqlite'}"
        asyncio.run(fill(database, live, past))
        yield stack.enter_context(dispatcher_process(database, directory / "data", core=0, heard=True))


@contextmanager
def dispatcher_process(
    database: str, data_dir: Path, core: int | None, heard: bool = False
) -> Iterator[tuple[str, psutil.Process]]:
    """A dispatcher with instant machines, on one core or on all; gives its URL and its process.

    Args:
        heard: Its machines are taken for ones that talk on their channels.
    """
    port = free_port()
    # As `python -m dispatcher` does before it serves.
    data_dir.mkdir(mode=0o700)
    environment = os.environ | {
        "SWITCHBOARD_PORT": str(port),
        "SWITCHBOARD_DATA_DIR": str(data_dir),
        "SWITCHBOARD_DATABASE_URL": database,
        "SWITCHBOARD_SECRETS": json.dumps([SECRET]),
        "SWITCHBOARD_LOG_LEVEL": "error",
        "SWITCHBOARD_AGENTS": json.dumps(
            {"echo": {"bot": "echo.py", "maxSessions": 100_000, "startTimeoutSeconds": 600}}
        ),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "tests.bench.served", *(["heard"] if heard else [])]
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(process, url)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the dispatcher ended with {process.returncode}"
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the dispatcher is not ready after 60 s")


if __name__ == "__main__":
    sys.exit(main())
