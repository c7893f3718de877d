"""The suite itself: who keeps the contract passes, and each broken promise is caught by its check."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import LOG_BYTES, LogPart, Rejected, Unreachable
from tests.contracts.conformance import CHECKS
from tests.contracts.memory import InMemory
from tests.doubles import EXIT_AFTER, EXIT_CODE, Cloud, CreatesTwiceIfAsked, GoodProvider, VirtualClock


class Memory(InMemory):
    """A cloud in memory, behind providers of one kind."""

    def __init__(
        self, kind: Callable[[Cloud], GoodProvider], cloud: Cloud | None = None, deployment: str = "sb"
    ) -> None:
        clock = VirtualClock()
        self._cloud = cloud or Cloud(clock)
        self._kind = kind
        super().__init__(self._cloud, clock, (EXIT_AFTER, EXIT_CODE), deployment)

    def provider(self):
        made = self._kind(self._cloud)
        made.deployment = self.deployment
        return made

    def neighbour(self):
        return Memory(GoodProvider, self._cloud, "neighbour")

    async def running(self):
        prefix = f"{self.deployment}-"
        return [one.machine_id for one in self._cloud.running() if one.name.startswith(prefix)]


class SettlesLate(GoodProvider):
    """Keeps the contract of an API whose reads lag behind its writes."""

    settling = timedelta(seconds=5)

    async def get(self, machine_id):
        instance = self.find(machine_id)
        late = instance is not None and self.cloud.clock.now() < instance.created_at + 4
        return None if late else await super().get(machine_id)

    async def list(self):
        async for status in super().list():
            if await self.get(status.id) is not None:
                yield status


class ForgetsWhatIsGone(GoodProvider):
    """Keeps the contract of an API that deletes a machine's record with the machine."""

    async def get(self, machine_id):
        status = await super().get(machine_id)
        return None if status is not None and status.state is MachineState.gone else status


class ChecksThenCreates(GoodProvider):
    """Looks whether there is one already, and another call looks at the same time."""

    async def create(self, spec):
        known = self.find(spec.id)
        await asyncio.sleep(0)
        if known is None:
            self.cloud.start(spec, self.identity(spec.id))
        return MachineStatus(spec.id, MachineState.started)


class ListsNothing(GoodProvider):
    async def list(self):
        for status in ():
            yield status


class ListsTheGone(GoodProvider):
    async def list(self):
        for instance in self.cloud.instances:
            yield self.status(instance)


class KnowsEveryMachine(GoodProvider):
    async def get(self, machine_id):
        return await super().get(machine_id) or MachineStatus(machine_id, MachineState.gone)


class StopsOnce(GoodProvider):
    async def stop(self, machine_id, grace):
        if not self.cloud.running(machine_id) and self.find(machine_id):
            raise Unreachable("409: the machine is not running")
        await super().stop(machine_id, grace)


class OnlySaysThatItStops(GoodProvider):
    async def stop(self, machine_id, grace):
        pass


class KnowsNoStrangers(GoodProvider):
    async def stop(self, machine_id, grace):
        if self.find(machine_id) is None:
            raise Unreachable("404")
        await super().stop(machine_id, grace)


class NamesAtRandom(GoodProvider):
    """Remembers under which random names it created what; a restarted one cannot."""

    _numbers = itertools.count()

    def __init__(self, cloud):
        super().__init__(cloud)
        self._names: dict[str, str] = {}

    def identity(self, machine_id):
        return self._names.setdefault(machine_id, f"{self.deployment}-random-{next(self._numbers)}")


class HidesDeaths(GoodProvider):
    def status(self, instance):
        return MachineStatus(instance.machine_id, MachineState.started)


class LosesExitCodes(GoodProvider):
    def status(self, instance):
        return replace(super().status(instance), exit_code=None)


class KeepsItsOwnBooks(GoodProvider):
    """Answers from what this object has created, not from what the cloud knows."""

    def __init__(self, cloud):
        super().__init__(cloud)
        self._mine: set[str] = set()

    async def create(self, spec):
        self._mine.add(spec.id)
        return await super().create(spec)

    async def get(self, machine_id):
        return await super().get(machine_id) if machine_id in self._mine else None


class IgnoresDeadlines(GoodProvider):
    async def create(self, spec):
        return await super().create(replace(spec, max_duration=timedelta(days=1)))


class BelievesFilters(GoodProvider):
    """Takes whatever a filtered list answers for its own."""

    async def list(self):
        for instance in self.cloud.listed(self.deployment):
            yield self.status(instance)


class LooksUpByFilter(GoodProvider):
    """Asks for a machine by a filter, and takes the first of the answer for it."""

    def find(self, machine_id):
        listed = self.cloud.listed(self.deployment)
        if self.cloud.filters:
            listed = [one for one in listed if one.machine_id == machine_id]
        return next(iter(listed), None)

    async def stop(self, machine_id, grace):
        if (found := self.find(machine_id)) is not None:
            found.ends_at = self.cloud.clock.now()


class BelievesAnswers(GoodProvider):
    """Takes the machine that it is shown for the one that it asked for."""

    def find(self, machine_id):
        return self.cloud.shown(self.identity(machine_id))


class StopsWhatItIsShown(GoodProvider):
    """Compares before it tells of a machine, and not before it stops one."""

    async def stop(self, machine_id, grace):
        if (found := self.cloud.shown(self.identity(machine_id))) is not None:
            found.ends_at = self.cloud.clock.now()


class TakesAnotherForNone(GoodProvider):
    """Says that there is no such machine where it is shown another one."""

    def find(self, machine_id):
        found = self.cloud.shown(self.identity(machine_id))
        return found if found is not None and found.machine_id == machine_id else None


class Prints(GoodProvider):
    """Keeps the contract of an API that keeps logs: of an answer it reads so much and no more."""

    def __init__(self, cloud):
        super().__init__(cloud)
        self._units: dict[str, str] = {}

    async def create(self, spec):
        self._units[spec.id] = spec.environment.get("PRINTS", "")
        return await super().create(spec)

    async def read_log(self, machine_id, lines, after=None, *, ended=False):
        unit = self._units.get(machine_id)
        text = None if unit is None else self.read(unit * (LOG_BYTES // len(unit)) if unit else "")
        return None if text is None else LogPart((text,), 1)

    def read(self, printed: str) -> str | None:
        return printed


class GivesAllOfALog(Prints):
    def read(self, printed):
        return printed + printed


class CutsALogThatItHasRead(Prints):
    def read(self, printed):
        return (printed * 100)[-LOG_BYTES:]


class GivesNothingOfALog(Prints):
    def read(self, printed):
        return ""


class RefusesToReadALog(Prints):
    def read(self, printed):
        raise Rejected("read it where it is kept")


class MeetsHostile(GoodProvider):
    """Knows which of its machines are hostile."""

    hostile: ClassVar[set[str]] = set()

    async def create(self, spec):
        if "HOSTILE" in spec.environment:
            self.hostile.add(spec.id)
        return await super().create(spec)


class OnlyAsksToEnd(MeetsHostile):
    """Leaves alone what does not end when it is asked to."""

    async def stop(self, machine_id, grace):
        if machine_id not in self.hostile or grace == timedelta(0):
            await super().stop(machine_id, grace)


class StumblesOverOne(MeetsHostile):
    """Fails to list all machines because of one."""

    async def list(self):
        if any(self.cloud.running(machine_id) for machine_id in self.hostile):
            raise Unreachable("the record of a machine cannot be read")
        async for status in super().list():
            yield status


class TakesAFaultForAbsence(MeetsHostile):
    """Says that there is no machine where it cannot find out."""

    async def get(self, machine_id):
        return None if machine_id in self.hostile else await super().get(machine_id)


BROKEN = {
    "a_hostile_machine_ends_and_keeps_nobody_waiting": [
        OnlyAsksToEnd,
        StumblesOverOne,
        TakesAFaultForAbsence,
    ],
    "a_log_is_read_within_bounds_of_memory_and_time": [
        GivesAllOfALog,
        CutsALogThatItHasRead,
        GivesNothingOfALog,
        RefusesToReadALog,
    ],
    "create_twice_gives_one_machine": [CreatesTwiceIfAsked],
    "concurrent_creates_of_one_id_give_one_machine": [ChecksThenCreates],
    "a_list_contains_what_was_created_and_nothing_that_is_gone": [ListsNothing, ListsTheGone],
    "an_unknown_machine_is_none": [KnowsEveryMachine],
    "a_stopped_machine_is_gone_and_stopping_it_again_is_fine": [StopsOnce, OnlySaysThatItStops],
    "stopping_an_unknown_machine_is_fine": [KnowsNoStrangers],
    "a_lost_answer_to_create_is_recovered_by_identity": [NamesAtRandom],
    "a_machine_that_ends_by_itself_is_seen_gone_with_its_exit_code": [HidesDeaths, LosesExitCodes],
    "a_restarted_provider_sees_the_same_truth": [KeepsItsOwnBooks],
    "a_machine_ends_at_its_deadline": [IgnoresDeadlines],
    "a_list_that_the_server_did_not_filter_has_no_strangers": [BelievesFilters, LooksUpByFilter],
    "an_answer_about_another_machine_is_not_believed": [
        BelievesAnswers,
        StopsWhatItIsShown,
        TakesAnotherForNone,
    ],
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", [GoodProvider, SettlesLate, Prints])
def test_a_provider_that_keeps_the_contract_passes(check, kind):
    harness = Memory(kind)
    harness.run(CHECKS[check](harness))


@pytest.mark.parametrize("check", CHECKS)
def test_a_provider_that_forgets_what_is_gone_passes(check):
    harness = Memory(ForgetsWhatIsGone)
    harness.tells_exit_codes = False
    harness.run(CHECKS[check](harness))


@pytest.mark.parametrize("check", CHECKS)
def test_a_deadline_may_be_the_reapers(check):
    harness = Memory(IgnoresDeadlines)
    harness.deadline_kept_by = "reaper"
    harness.run(CHECKS[check](harness))


def test_every_check_has_a_provider_that_it_must_catch():
    assert BROKEN.keys() == CHECKS.keys()


@pytest.mark.parametrize(("check", "kind"), [(check, kind) for check in BROKEN for kind in BROKEN[check]])
def test_a_broken_promise_is_caught_by_its_check(check, kind):
    harness = Memory(kind)
    with pytest.raises((AssertionError, Unreachable)):
        harness.run(CHECKS[check](harness))
