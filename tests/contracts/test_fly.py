"""Machines at Fly keep the contract, at the fake of its API, on a clock that runs by itself."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from dispatcher.clock import Clock
from dispatcher.machines.fly import FlyProvider
from dispatcher.machines.provider import MachineSpec
from tests.contracts.conformance import CHECKS
from tests.contracts.harness import Harness
from tests.doubles import VirtualClock
from tests.fly.fake import FakeFly
from tests.fly.processes import Exit, Launch, Scripted
from tests.fly.rates import Limits
from tests.fly.wire import InProcess

T = TypeVar("T")

DEPLOYMENT = "contract"
APPS = ("bots-1", "bots-2")
RUN, EXIT = "run", "exit"


def start(launch: Launch, clock: Clock) -> Scripted:
    word, value = launch.command[-2:]
    return Scripted(launch, clock) if word == RUN else Scripted(launch, clock, 1, Exit(int(value)))


class AtFly(Harness):
    """An organisation with two apps. Its calls are not limited: to keep to the limits is the fleet's part."""

    deadline_kept_by = "provider"

    def __init__(self) -> None:
        self._clock = VirtualClock()
        self.fly = FakeFly(self._clock, start=start, limits=Limits(None))
        for app in APPS:
            self.fly.app(app)
        self._token = self.fly.token(*APPS)

    def provider(self) -> FlyProvider:
        return FlyProvider(
            url="http://fly.test",
            token=self._token,
            deployment=DEPLOYMENT,
            apps=APPS,
            late=timedelta(0),
            clock=self._clock,
            transport=InProcess(self.fly),
        )

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        return MachineSpec(
            id=machine_id,
            bot_file="bot.py",
            arguments=(RUN, "") if exits is None else (EXIT, str(exits)),
            environment={"SWITCHBOARD_MACHINE_TOKEN": "token"},
            cpu=1,
            memory_mb=1024,
            max_duration=timedelta(seconds=3600 if deadline is None else deadline),
            image="registry.fly.io/bots@sha256:" + "0" * 64,
        )

    async def running(self) -> list[str]:
        return [name.removeprefix(f"{DEPLOYMENT}-") for name in self.fly.running()]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._clock.run(work)

    def now(self) -> float:
        return self._clock.now()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


@pytest.fixture
def at_fly() -> Iterator[AtFly]:
    harness = AtFly()
    yield harness
    assert harness.fly.violations == []


@pytest.mark.parametrize("check", CHECKS)
def test_machines_at_fly_keep_the_contract(check: str, at_fly: AtFly) -> None:
    at_fly.run(CHECKS[check](at_fly))


@pytest.mark.parametrize("check", CHECKS)
def test_they_keep_it_where_a_new_machine_is_not_listed_for_a_while(check: str, at_fly: AtFly) -> None:
    at_fly.fly.list_lag_seconds = 3
    at_fly.run(CHECKS[check](at_fly))
