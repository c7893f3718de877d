"""Bots that hang, block, flood and spoil their files under load: nobody else notices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import sqlalchemy as sa

from tests.load.checks import Store
from tests.load.dispatchers import Dispatcher
from tests.load.load import Load, leaves_nothing

HARMS = ("hang", "block", "flood", "spoil")
SECONDS = 20.0


def test_bots_that_do_what_harm_they_can(
    dispatcher: Callable[..., Dispatcher], chance: random.Random
) -> None:
    asyncio.run(_suffer(dispatcher(unresponsive_seconds=30, call_timeout_seconds=5), chance))


async def _suffer(dispatcher: Dispatcher, chance: random.Random) -> None:
    store = Store(sa.URL.create("sqlite", database=str(dispatcher.data / "switchboard.sqlite")))
    dispatcher.start()
    load = Load(store, [dispatcher], chance, harms=HARMS, reasons=frozenset({"unresponsive"}))
    await load.goes_on(SECONDS)
    print(await load.finish())
    assert dispatcher.starts == 1
    await leaves_nothing(dispatcher, store, chance)
