"""Two dispatchers on one PostgreSQL under load: one is killed, again and again, and then told to exit."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable

from dispatcher.sessions.maintenance.leader import DEAD_SECONDS, REAPER
from dispatcher.store.tables import leases
from tests.load.callers import Callers
from tests.load.checks import Store, settle
from tests.load.dispatchers import Dispatcher
from tests.load.forwarder import forwarder
from tests.load.load import AGENTS, Load, leaves_nothing
from tests.ports import free_port

KILLS = 6
CALLS = 2
CALL_SECONDS = 600.0


def test_one_of_two_replicas_is_killed_and_told_to_exit(
    dispatcher: Callable[..., Dispatcher], chance: random.Random, postgres_url: str
) -> None:
    shared = {
        "database_url": postgres_url,
        "secrets": [secrets.token_hex(32)],
        "machine_url": f"http://127.0.0.1:{(port := free_port())}",
    }
    replicas = [dispatcher(name, **shared) for name in ("a", "b")]
    asyncio.run(_kill_and_drain(replicas, port, chance, Store(postgres_url)))


async def _kill_and_drain(replicas: list[Dispatcher], port: int, chance: random.Random, store: Store) -> None:
    for replica in replicas:
        replica.start()
    async with forwarder(port, replicas):
        calls = Callers(replicas, list(AGENTS), chance, seconds=(CALL_SECONDS, CALL_SECONDS))
        bots = {
            session_id: replicas[0].bots_of(f"m-{session_id}")
            for session_id in [await calls.start_one() for _ in range(CALLS)]
        }
        load = Load(store, replicas, chance, number=8)
        for _ in range(KILLS):
            await load.goes_on(chance.uniform(0.5, 2))
            killed = chance.choice(replicas)
            killed.kill()
            await load.goes_on(chance.uniform(0, 1.5))
            killed.start()

        # One that does not come back: the other becomes the reaper.
        await settle(lambda: _reaper(store, replicas) is not None, "a reaper", 2 * DEAD_SECONDS)
        dead = _reaper(store, replicas)
        assert dead is not None
        (other,) = [replica for replica in replicas if replica is not dead]
        dead.kill()
        await settle(lambda: _reaper(store, replicas) is other, "another reaper", 2 * DEAD_SECONDS)
        dead.start()
        await settle(lambda: _is_back(store, dead), "the killed one back", 2 * DEAD_SECONDS)

        # One that is told to exit: the reaper's work is handed on at once.
        await asyncio.to_thread(other.terminate)
        await settle(
            lambda: _reaper(store, replicas) is dead, "the reaper's work handed on", DEAD_SECONDS / 2
        )

        for session_id, (bot,) in bots.items():
            assert (await calls.record(session_id))["state"] == "active"
            assert replicas[0].bots_of(f"m-{session_id}") == [bot]
            await calls.stop(session_id)
        await calls.close()
        print(f"{KILLS + 1} kills;", await load.finish())
        await leaves_nothing(dead, store, chance)


def _reaper(store: Store, replicas: list[Dispatcher]) -> Dispatcher | None:
    """The replica that holds the reaper's lease, or did when it was killed; None as long as nobody does."""
    (rows,) = store.rows(leases)
    holders = [row["holder"] for row in rows if row["name"] == REAPER]
    return next((replica for replica in replicas if replica.replica in holders), None)


def _is_back(store: Store, dispatcher: Dispatcher) -> bool:
    """True if the others know of a dispatcher that was started again."""
    (rows,) = store.rows(leases)
    return dispatcher.replica in [row["name"] for row in rows]
