"""The load on a deployment, from the first call until all has settled, and what must be true then."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.load.callers import Callers
from tests.load.checks import Limits, Store, check_births, check_rows, live_ids, settle
from tests.load.dispatchers import Dispatcher, processes

AGENTS = {"first": 5, "second": 4}
"""Agent → how many sessions it takes."""
DEPLOYMENT = 7

REASONS = frozenset(
    {
        *("completed", "stopped", "machine_killed", "no_client", "queue_timeout"),
        # Killed between the row and the machine, and again before the next one knew that there is none.
        *("start_timeout", "unreachable"),
    }
)


def deployment(root: Path, name: str = "dispatcher", **settings: Any) -> Dispatcher:
    """A dispatcher of these agents, not started yet."""
    each = {"maxQueued": 3, "startTimeoutSeconds": 8, "clientTimeoutSeconds": 5}
    agents = {agent: each | {"maxSessions": limit} for agent, limit in AGENTS.items()}
    return Dispatcher(root, agents, {"max_sessions": DEPLOYMENT, "heartbeat_seconds": 1} | settings, name)


@dataclass
class Load:
    """Callers at work; `finish` ends it.

    Args:
        number: How many callers there are at a time.
        harms: What bots may do, beside what they are for (`Callers`).
        reasons: For which sessions may end here, beside those of any load.
    """

    store: Store
    dispatchers: Sequence[Dispatcher]
    chance: random.Random
    number: int = 12
    harms: Sequence[str] = ()
    reasons: frozenset[str] = frozenset()
    _enough: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._began = time.monotonic()
        chance = random.Random(self.chance.random())
        self.callers = Callers(self.dispatchers, list(AGENTS), chance, harms=self.harms)
        self.limits = Limits(self.store, self.dispatchers[0].living, AGENTS, DEPLOYMENT)
        self._calling = asyncio.create_task(self.callers.keep_calling(self.number, self._enough))
        self._watching = asyncio.create_task(self.limits.watch())

    async def goes_on(self, seconds: float) -> None:
        """Let the load go on for so long.

        Raises:
            ExceptionGroup: a caller was left without an answer.
        """
        await asyncio.wait([self._calling], timeout=seconds)
        if self._calling.done():
            await self._calling

    async def finish(self) -> str:
        """Wait for the callers and until all has settled, and check what is left; gives the figures."""
        loaded = time.monotonic()
        self._enough.set()
        await self._calling
        await settle(lambda: not live_ids(self.store), "every session over and every machine gone")
        self._watching.cancel()
        await self.callers.close()
        book = self.callers.book
        assert book.wrong == []
        assert self.limits.wrong == []
        ended = check_rows(self.store, book, REASONS | self.reasons)
        machines = check_births(self.dispatchers[0])
        # It was a load: sessions came through.
        assert {"completed", "stopped"} <= set(ended)
        assert self.limits.most[""] >= DEPLOYMENT - 1
        figures = {
            "seconds": round(loaded - self._began, 1),
            "seconds to settle": round(time.monotonic() - loaded, 1),
            "sessions": dict(ended),
            "bots": machines,
            "most at once": dict(self.limits.most),
            "samples": self.limits.samples,
            "answers": dict(sorted(book.answers.items())),
            "callers": dict(book.ends),
        }
        return "; ".join(f"{name}: {figure}" for name, figure in figures.items())


async def leaves_nothing(dispatcher: Dispatcher, store: Store, chance: random.Random) -> None:
    """Two more sessions, which live, have one bot each; without a dispatcher `stop-machines` ends them."""
    callers = Callers([dispatcher], list(AGENTS), chance)
    for _ in range(2):
        session_id = await callers.start_one()
        assert len(dispatcher.bots_of(f"m-{session_id}")) == 1
    await callers.close()
    dispatcher.kill()
    await asyncio.to_thread(dispatcher.stop_machines)
    await settle(lambda: not processes(dispatcher.root), "no process of any machine or template", 15)
    assert live_ids(store) == set()
