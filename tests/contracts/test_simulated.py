"""The simulation's machines API keeps the contract while it has no faults, whatever its habits are."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Literal

import pytest

from tests.chaos.cloud import Faults, Habits, Instance, Site, SiteProvider
from tests.chaos.gate import Gate, VirtualLoop
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import OfVariables
from tests.doubles import EXIT_CODE

HABITS = {
    "answers when it has started": Habits(boot_seconds=0.0),
    "starts late": Habits(boot_seconds=3.0),
    "shows late": Habits(settling=3.0),
    "forgets at once": Habits(forgets_after=0.0),
    "keeps no deadline": Habits(enforces_deadline=False),
}


def never(_words: str) -> None:
    raise AssertionError("no dispatcher dies here")


class Simulated(OfVariables):
    """A site without faults. Its machines end by themselves if their variables say so."""

    def __init__(self, habits: Habits, loop: VirtualLoop | None = None) -> None:
        self.deadline_kept_by: Literal["provider", "bot", "reaper"] = (
            "provider" if habits.enforces_deadline else "reaper"
        )
        self.tells_exit_codes = habits.forgets_after > 0
        self._habits = habits
        self._loop = loop or VirtualLoop()
        self._rng = random.Random("the conformance suite")
        self._site = Site("here", self._loop, self._rng, habits, Faults(), self, lambda _: None)

    def machine_created(self, instance: Instance) -> None:
        """Called by the site."""

    def machine_gone(self, instance: Instance) -> None:
        """Called by the site."""

    def boot(self, instance: Instance) -> asyncio.Task[None]:
        async def live() -> None:
            code = instance.spec.environment.get(EXIT_CODE)
            await asyncio.sleep(1.0 if code is not None else 1e9)
            self._site.end(instance, int(code or 0))

        return self._loop.create_task(live())

    def provider(self):
        return SiteProvider(self._site, Gate(self._loop, self._rng, None, never))

    def neighbour(self):
        return Simulated(self._habits, self._loop)

    def filtering_nothing(self):
        """A site has the machines of one deployment alone."""
        return nullcontext()

    def answering(self, asked, shown):
        """A site shows the machine that it is asked for."""
        return nullcontext()

    async def running(self):
        return [one.id for one in self._site.instances if one.here]

    def run(self, work):
        return self._loop.run_until_complete(work)

    def now(self):
        return self._loop.now

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)

    def close(self) -> None:
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self.run(asyncio.wait(tasks, timeout=1.0))
        self._loop.close()


@pytest.fixture(params=HABITS.values(), ids=list(HABITS))
def harness(request: pytest.FixtureRequest) -> Iterator[Simulated]:
    made = Simulated(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("check", CHECKS)
def test_simulated_provider_keeps_the_contract(check: str, harness: Simulated) -> None:
    harness.run(CHECKS[check](harness))


def test_simulated_provider_is_caught_when_it_creates_twice() -> None:
    made = Simulated(Habits(idempotent=False))
    try:
        with pytest.raises(AssertionError, match="must run"):
            made.run(CHECKS["create_twice_gives_one_machine"](made))
    finally:
        made.close()
