"""The provider that the dispatcher's tests script keeps the contract, as long as no fault is scripted."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.contracts.conformance import CHECKS
from tests.contracts.harness import Harness
from tests.dispatcher.harness import ManualClock, ScriptedProvider
from tests.doubles import EXIT_CODE, spec


class Scripted(Harness):
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

    def spec(self, machine_id, *, exits=None, deadline=None):
        made = spec(machine_id, **({} if exits is None else {EXIT_CODE: str(exits)}))
        return made if deadline is None else replace(made, max_duration=timedelta(seconds=deadline))

    def flooding(self, machine_id, unit):
        return spec(machine_id)

    def hostile(self, machine_id):
        return spec(machine_id)

    async def harms(self, machine_id):
        return machine_id in self._provider.running

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
