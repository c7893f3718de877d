"""A dispatcher under load whose machine runs out of descriptors, and then of disk, again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from tests.load.callers import Callers
from tests.load.checks import Store, settle
from tests.load.dispatchers import Dispatcher
from tests.load.load import AGENTS, Load, leaves_nothing
from tests.small_disk import FILLED, fill, small_disk

TIMES = 3
CALL_SECONDS = 600.0
MEGABYTES = 100

FULL = frozenset({"no_capacity", "machine_lost"})
"""What a start is told that comes before the dispatcher's next look at the disk; and the end of a bot whose
exit status could not be written."""


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of others are set on Linux alone")
def test_descriptors_and_disk_run_out(
    dispatcher: Callable[..., Dispatcher], chance: random.Random, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "data", MEGABYTES):
        asyncio.run(_run_out(dispatcher(), chance))


async def _run_out(dispatcher: Dispatcher, chance: random.Random) -> None:
    store = Store(sa.URL.create("sqlite", database=str(dispatcher.data / "switchboard.sqlite")))
    dispatcher.start()
    call = Callers([dispatcher], list(AGENTS), chance, seconds=(CALL_SECONDS, CALL_SECONDS))
    session_id = await call.start_one()
    (bot,) = dispatcher.bots_of(f"m-{session_id}")
    load = Load(store, [dispatcher], chance, number=8, reasons=FULL)
    answers = load.callers.book.answers
    for _ in range(TIMES):
        await load.goes_on(chance.uniform(1, 3))
        with dispatcher.without_descriptors():
            await load.goes_on(chance.uniform(0.5, 4))
        await load.goes_on(chance.uniform(1, 3))
        refused = answers["POST 503"]
        await asyncio.to_thread(fill, dispatcher.data)
        await settle(lambda told=refused: answers["POST 503"] > told, "a caller who is told of the full disk")
        await load.goes_on(chance.uniform(0.5, 3))
        (dispatcher.data / FILLED).unlink()
        assert bot.is_running()
    await load.goes_on(2)
    assert (await call.record(session_id))["state"] == "active"
    assert dispatcher.bots_of(f"m-{session_id}") == [bot]
    await call.stop(session_id)
    await call.close()
    print(f"{TIMES} shortages of each;", await load.finish())
    assert dispatcher.starts == 1
    await leaves_nothing(dispatcher, store, chance)
