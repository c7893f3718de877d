"""The provider that the dispatcher's tests script keeps the contract, as long as no fault is scripted."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from tests.contracts.conformance import CHECKS
from tests.contracts.memory import OfVariables
from tests.dispatcher.harness import ManualClock, ScriptedProvider
from tests.doubles import EXIT_CODE


class Scripted(OfVariables):
    """One object is both the provider and its machines: a restarted dispatcher's provider is the same one.

    Its machines end when a test says so: those that end by themselves do as soon as time passes.
    """

    deadline_kept_by = "reaper"

    def __init__(self) -> None:
        self._clock = ManualClock()
        self._provider = ScriptedProvider()

    def provider(self):
        return self._provider

    def neighbour(self):
        return Scripted()

    def filtering_nothing(self):
        """There is no server that could list another deployment's machines."""
        return nullcontext()

    def answering(self, asked, shown):
        """There is no server that could show another machine."""
        return nullcontext()

    async def running(self):
        return self._provider.running

    def run(self, work):
        return asyncio.run(work)

    def now(self):
        return self._clock.now()

    async def sleep(self, seconds):
        self._clock.advance(seconds)
        for machine_id in self._provider.running:
            code = self._provider.specs[machine_id].environment.get(EXIT_CODE)
            if code is not None:
                self._provider.die(machine_id, int(code))


@pytest.mark.parametrize("check", CHECKS)
def test_scripted_provider_keeps_the_contract(check):
    harness = Scripted()
    harness.run(CHECKS[check](harness))
