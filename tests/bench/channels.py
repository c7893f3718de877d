"""`python -m tests.bench.channels`: what open channels cost, as a Markdown table.

Two dispatchers on one PostgreSQL hold the channels of so many machines, which talk: each says a heartbeat
every 5 s, as bots do. CPU is all that the dispatchers take meanwhile, memory what they take above what they
took without a channel. (Their CPU without one is no measure: they ask about each machine that says nothing.)
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import sqlalchemy as sa
from websockets.asyncio.client import ClientConnection, connect

from bot import protocol
from dispatcher.clock import SystemClock
from dispatcher.store.tables import sessions
from dispatcher.tokens import MachineTokens, Signer
from tests.bench.past import fill
from tests.bench.starts import SECRET, dispatcher_process
from tests.postgres import Postgres

HEARTBEAT_SECONDS = 5.0
Uses = list[tuple[float, int]]
"""Per dispatcher: seconds of CPU, and resident bytes."""

AT_ONCE = 50
"""Connections that one client opens at the same time."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.channels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--channels", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--client", nargs=2, metavar=("URL", "IDS"), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.client is not None:
        url, ids = wanted.client
        asyncio.run(client(url, Path(ids).read_text().split(), wanted.seconds))
        return 0
    measure(wanted.channels, wanted.seconds)
    return 0


def measure(channels: int, seconds: float) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="switchboard-bench-")))
        postgres = stack.enter_context(Postgres(durable=True))
        database = postgres.create_database()
        asyncio.run(fill(database, live=channels, past=0))
        replicas = [
            stack.enter_context(dispatcher_process(database, directory / name, core=None)) for name in "ab"
        ]
        time.sleep(5)
        idle = [_use(process) for _, process in replicas]
        clients = []
        for number, (url, _) in enumerate(replicas):
            ids = directory / f"ids-{number}"
            ids.write_text("\n".join(_ids(database)[number::2]))
            command = [sys.executable, "-m", "tests.bench.channels", "--seconds", str(seconds)]
            clients.append(
                subprocess.Popen([*command, "--client", url, str(ids)], stdout=subprocess.PIPE, text=True)
            )
        for one in clients:
            assert one.stdout is not None
            assert one.stdout.readline() == "connected\n"
        before = [_use(process) for _, process in replicas]
        begun = time.monotonic()
        for one in clients:
            assert one.wait(seconds + 60) == 0
        took = time.monotonic() - begun
        after = [_use(process) for _, process in replicas]
        cpu = _total(before, after, 0) / took
        memory = _total(idle, after, 1)
    thousands = channels / 1000
    print("| channels on two dispatchers | heartbeats per s | CPU per 1,000 | memory per 1,000 |")
    print("|---:|---:|---:|---:|")
    beats = channels / HEARTBEAT_SECONDS
    megabytes = memory / thousands / 2**20
    print(f"| {channels:,} | {beats:,.0f} | {cpu / thousands:.1%} of a core | {megabytes:.0f} MiB |")


async def client(url: str, machine_ids: list[str], seconds: float) -> None:
    """Hold these machines' channels: connect, say `connected`, and talk for so long."""
    tokens = MachineTokens(Signer((SECRET.encode(),), SystemClock()), SystemClock())
    turn = asyncio.Semaphore(AT_ONCE)
    everybody = asyncio.Event()

    async def one(machine_id: str, share: float) -> None:
        headers = {"Authorization": f"Bearer {tokens.issue(machine_id, 3600)}"}
        async with turn:
            connection = await connect(
                url.replace("http", "ws") + protocol.CHANNEL_PATH,
                additional_headers=headers,
                proxy=None,
                compression=None,
                open_timeout=120,
            )
            await _say(connection, protocol.Hello(machine_id=machine_id, phase="active"))
            welcome = protocol.parse_from_dispatcher(await connection.recv())
            assert isinstance(welcome, protocol.Welcome), welcome
        connected.append(machine_id)
        if len(connected) == len(machine_ids):
            print("connected", flush=True)
            everybody.set()
        await everybody.wait()
        await asyncio.sleep(share * HEARTBEAT_SECONDS)
        for _ in range(round(seconds / HEARTBEAT_SECONDS)):
            await _say(connection, protocol.Heartbeat(phase="active", rss_bytes=150 * 2**20, cpu_seconds=1.0))
            await asyncio.sleep(HEARTBEAT_SECONDS)

    connected: list[str] = []
    await asyncio.gather(*(one(name, i / len(machine_ids)) for i, name in enumerate(machine_ids)))


async def _say(connection: ClientConnection, message: protocol.FromMachine) -> None:
    await connection.send(message.model_dump_json())


def _ids(database: str) -> list[str]:
    engine = sa.create_engine(database)
    with engine.connect() as connection:
        found = list(connection.scalars(sa.select(sessions.c.machine_id).order_by(sessions.c.id)))
    engine.dispose()
    return found


def _total(before: Uses, after: Uses, which: int) -> float:
    return sum(end[which] - start[which] for start, end in zip(before, after, strict=True))


def _use(process: psutil.Process) -> tuple[float, int]:
    """Seconds of CPU so far, and resident bytes."""
    return sum(process.cpu_times()[:2]), process.memory_info().rss


if __name__ == "__main__":
    sys.exit(main())
