"""A dispatcher that is killed again and again under load loses nothing and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.load.callers import Callers
from tests.load.checks import Limits, Store, check_births, check_rows, live_ids, settle
from tests.load.dispatchers import Dispatcher, processes

KILLS = 50
CALLERS = 12
AGENTS = {"first": 5, "second": 4}
"""Agent → how many sessions it takes."""
DEPLOYMENT = 7
READY_SECONDS = 10.0

REASONS = frozenset(
    {
        *("completed", "stopped", "machine_killed", "no_client"),
        # Killed between the row and the machine, and again before the next one knew that there is none.
        *("start_timeout", "unreachable"),
        "queue_timeout",
    }
)


def seed_of(name: str) -> int:
    """The run's seed: of the variable, to repeat a run as far as processes can be; else a new one."""
    seed = int(os.environ.get("LOAD_SEED") or random.SystemRandom().randrange(10**6))
    print(f"{name}: LOAD_SEED={seed}")
    return seed


@pytest.fixture
def dispatcher(tmp_path: Path):
    agents = {
        name: {"maxSessions": limit, "maxQueued": 3, "startTimeoutSeconds": 8, "clientTimeoutSeconds": 5}
        for name, limit in AGENTS.items()
    }
    started = Dispatcher(tmp_path, agents, {"max_sessions": DEPLOYMENT, "heartbeat_seconds": 1})
    yield started
    started.end()


def test_a_dispatcher_killed_fifty_times(dispatcher: Dispatcher) -> None:
    asyncio.run(_kill_again_and_again(dispatcher))


async def _kill_again_and_again(dispatcher: Dispatcher) -> None:
    began = time.monotonic()
    chance = random.Random(seed_of("kills"))
    store = Store(sa.URL.create("sqlite", database=str(dispatcher.data / "switchboard.sqlite")))
    callers = Callers([dispatcher], list(AGENTS), random.Random(chance.random()))
    limits = Limits(store, AGENTS, DEPLOYMENT)
    enough = asyncio.Event()
    dispatcher.start()
    calling = asyncio.create_task(callers.keep_calling(CALLERS, enough))
    watching = asyncio.create_task(limits.watch())
    for _ in range(KILLS):
        await _live(dispatcher, chance)
        if calling.done():
            break  # a caller gave up: what it raised comes below
        dispatcher.kill()
        dispatcher.start()
    killed = time.monotonic()
    enough.set()
    await calling
    await settle(lambda: not live_ids(store), "every session over and every machine gone")
    watching.cancel()
    await callers.close()

    assert dispatcher.starts == KILLS + 1
    assert callers.book.wrong == []
    assert limits.wrong == []
    ended = check_rows(store, callers.book, REASONS)
    machines = check_births(dispatcher)
    print(
        f"{KILLS} kills in {killed - began:.1f} s, settled in {time.monotonic() - killed:.1f} s; "
        f"{ended.total()} sessions {dict(ended)}, {machines} bots; most at once {dict(limits.most)} "
        f"in {limits.samples} samples; answers {dict(sorted(callers.book.answers.items()))}; "
        f"callers did {dict(callers.book.ends)}"
    )
    # The load was one: sessions came through, and ended in every way.
    assert {"completed", "stopped", "machine_killed"} <= set(ended)
    assert limits.most[""] >= DEPLOYMENT - 1
    await _leaves_nothing(dispatcher, store)


async def _live(dispatcher: Dispatcher, chance: random.Random) -> None:
    """From a start to the moment of the kill: one time in three while it still starts and recovers."""
    if chance.random() < 0.35:
        await asyncio.sleep(chance.uniform(0.003, 0.4))
        return
    began = time.monotonic()
    while not await dispatcher.answers() and time.monotonic() < began + READY_SECONDS:
        await asyncio.sleep(0.02)
    await asyncio.sleep(chance.uniform(0, 0.8))


async def _leaves_nothing(dispatcher: Dispatcher, store: Store) -> None:
    """Live sessions have exactly one bot each; without a dispatcher, `stop-machines` ends them all."""
    callers = Callers([dispatcher], list(AGENTS), random.Random(0), seconds=(60, 60))
    live = [await callers.start_one() for _ in range(2)]
    assert [len(dispatcher.bots_of(f"m-{session_id}")) for session_id in live] == [1, 1]
    await callers.close()
    dispatcher.kill()
    await asyncio.to_thread(dispatcher.stop_machines)
    await settle(lambda: not processes(dispatcher.root), "no process of any machine or template", 15)
    assert live_ids(store) == set()
