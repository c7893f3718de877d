"""A dispatcher that is killed again and again under load loses nothing and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import sqlalchemy as sa

from tests.load.checks import Store
from tests.load.dispatchers import Dispatcher
from tests.load.load import Load, leaves_nothing

KILLS = 50
READY_SECONDS = 10.0


def test_a_dispatcher_killed_fifty_times(
    dispatcher: Callable[..., Dispatcher], chance: random.Random
) -> None:
    asyncio.run(_kill_again_and_again(dispatcher(), chance))


async def _kill_again_and_again(dispatcher: Dispatcher, chance: random.Random) -> None:
    store = Store(sa.URL.create("sqlite", database=str(dispatcher.data / "switchboard.sqlite")))
    dispatcher.start()
    load = Load(store, [dispatcher], chance)
    for _ in range(KILLS):
        await _live(dispatcher, chance, load)
        dispatcher.kill()
        dispatcher.start()
    print(f"{KILLS} kills;", await load.finish())
    assert dispatcher.starts == KILLS + 1
    await leaves_nothing(dispatcher, store, chance)


async def _live(dispatcher: Dispatcher, chance: random.Random, load: Load) -> None:
    """From a start to the moment of the kill: one time in three while it still starts and recovers."""
    if chance.random() < 0.35:
        await load.goes_on(chance.uniform(0.003, 0.4))
        return
    began = time.monotonic()
    while not await dispatcher.answers() and time.monotonic() < began + READY_SECONDS:
        await load.goes_on(0.02)
    await load.goes_on(chance.uniform(0, 0.8))
