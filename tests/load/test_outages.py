"""PostgreSQL goes away under load, with a goodbye and without: callers are told, calls go on."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable

from tests.load.callers import Callers
from tests.load.checks import Store, settle
from tests.load.dispatchers import Dispatcher
from tests.load.load import AGENTS, Load, leaves_nothing
from tests.postgres import Postgres, StopMode

OUTAGES: tuple[StopMode, ...] = ("fast", "immediate", "fast", "immediate")
CALL_SECONDS = 600.0


def test_outages_of_the_database(
    dispatcher: Callable[..., Dispatcher], chance: random.Random, postgres: Postgres, postgres_url: str
) -> None:
    serving = dispatcher(database_url=postgres_url, secrets=[secrets.token_hex(32)])
    asyncio.run(_stop_and_start(serving, chance, postgres, Store(postgres_url)))


async def _stop_and_start(
    dispatcher: Dispatcher, chance: random.Random, postgres: Postgres, store: Store
) -> None:
    dispatcher.start()
    call = Callers([dispatcher], list(AGENTS), chance, seconds=(CALL_SECONDS, CALL_SECONDS))
    session_id = await call.start_one()
    (bot,) = dispatcher.bots_of(f"m-{session_id}")
    load = Load(store, [dispatcher], chance, number=8)
    answers = load.callers.book.answers
    for mode in OUTAGES:
        await load.goes_on(chance.uniform(1, 3))
        await asyncio.to_thread(postgres.stop, mode)
        refused = answers["POST 503"]
        await load.goes_on(chance.uniform(0.5, 3))
        await settle(lambda told=refused: answers["POST 503"] > told, "a caller who is told of the outage")
        await asyncio.to_thread(postgres.start)
        assert bot.is_running()
    await load.goes_on(2)
    assert (await call.record(session_id))["state"] == "active"
    assert dispatcher.bots_of(f"m-{session_id}") == [bot]
    await call.stop(session_id)
    await call.close()
    print(f"{len(OUTAGES)} outages;", await load.finish())
    assert dispatcher.starts == 1
    await leaves_nothing(dispatcher, store, chance)
