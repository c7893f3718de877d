"""Metrics and log lines of calls to a machines API."""

import asyncio
from datetime import timedelta
from typing import get_args

import pytest

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.calls import CallOutcome, ProviderCall
from dispatcher.machines.placement import CREATE_SECONDS, Placement
from dispatcher.machines.provider import ProviderError
from tests.doubles import (
    AtQuota,
    Buggy,
    Cloud,
    FullProvider,
    GoodProvider,
    NeverAnswers,
    SlowProvider,
    ThrottlesFirst,
    VirtualClock,
    WrongStack,
    spec,
)


async def still_wanted() -> None:
    """Asked after every wait: nothing has changed."""


class World:
    """One placement, and all that is told of its calls."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.cloud = Cloud(self.clock)
        self.told: list[ProviderCall] = []

    def placement(self, provider) -> Placement:
        return Placement("near", provider, self.clock, self.told.append)

    def outcomes(self) -> list[tuple[str, str]]:
        return [(call.action, call.outcome) for call in self.told]


@pytest.fixture
def world():
    return World()


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (GoodProvider, "ok"),
        (FullProvider, "no_capacity"),
        (AtQuota, "quota_reached"),
        (WrongStack, "rejected"),
        (NeverAnswers, "unreachable"),
        (Buggy, "faulty"),
    ],
)
def test_a_create_is_told_with_what_came_of_it(world, make, outcome):
    placement = world.placement(make(world.cloud))

    async def create() -> str:
        """Return the error that the caller gets, or nothing."""
        try:
            await placement.create(spec("m-1"), world.clock.now() + 60, still_wanted)
        except ProviderError as error:
            return str(error)
        return ""

    said = world.clock.run(create())
    assert world.told[0].error == said
    assert (said == "") == (outcome == "ok")
    assert world.outcomes() == [("create", outcome)]
    assert (world.told[0].placement, world.told[0].provider) == ("near", "memory")


def test_the_time_is_the_calls_own(world):
    world.clock.run(
        world.placement(SlowProvider(world.cloud, 3)).create(
            spec("m-1"), world.clock.now() + 60, still_wanted
        )
    )
    assert world.told[0].seconds == pytest.approx(3)


def test_a_call_that_is_given_up_took_its_whole_time(world):
    with pytest.raises(ProviderError):
        world.clock.run(
            world.placement(NeverAnswers(world.cloud)).create(spec("m"), world.clock.now() + 60, still_wanted)
        )
    assert world.told[0].seconds == pytest.approx(CREATE_SECONDS)


def test_each_repetition_is_a_call(world):
    placement = world.placement(ThrottlesFirst(world.cloud, 2, 0.5))
    world.clock.run(placement.create(spec("m-1"), world.clock.now() + 60, still_wanted))
    assert world.outcomes() == [("create", "throttled"), ("create", "throttled"), ("create", "ok")]


def test_a_call_for_which_nobody_waits_any_more_is_told(world):
    placement = world.placement(NeverAnswers(world.cloud))

    async def run() -> None:
        asking = asyncio.create_task(placement.create(spec("m-1"), world.clock.now() + 60, still_wanted))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    world.clock.run(run())
    assert world.outcomes() == [("create", "cancelled")]


def test_a_list_is_one_call_however_many_machines_it_has_and_however_it_ends(world):
    placement = world.placement(GoodProvider(world.cloud))

    async def run() -> None:
        for number in range(3):
            await placement.create(spec(f"m-{number}"), world.clock.now() + 60, still_wanted)
        world.told.clear()
        assert len([status async for status in placement.list()]) == 3
        listing = placement.list()
        await anext(listing)
        await listing.aclose()
        await placement.get("m-1")
        await placement.stop("m-1", timedelta(0))

    world.clock.run(run())
    assert world.outcomes() == [("list", "ok"), ("list", "ok"), ("get", "ok"), ("stop", "ok")]


def test_each_page_of_a_list_has_a_time_of_its_own(world):
    class Pages(GoodProvider):
        async def list(self):
            for page, seconds in enumerate((8.0, 8.0, 11.0)):
                await world.clock.sleep(seconds)
                for number in range(3):
                    yield MachineStatus(f"m-{page}-{number}", MachineState.started)

    placement, listed = world.placement(Pages(world.cloud)), []

    async def read() -> None:
        async for status in placement.list():
            listed.append(status.id)

    async def run() -> None:
        with pytest.raises(ProviderError, match="no answer within 10 s"):
            await read()

    world.clock.run(run())
    assert listed == ["m-0-0", "m-0-1", "m-0-2", "m-1-0", "m-1-1", "m-1-2"]
    assert world.outcomes() == [("list", "unreachable")]


@pytest.mark.parametrize("how", ["closed", "cut off", "cancelled"])
def test_a_list_that_nobody_reads_to_its_end_is_closed(world, how):
    closed = []

    class Endless(GoodProvider):
        async def list(self):
            try:
                yield MachineStatus("m-1", MachineState.started)
                await asyncio.Event().wait()
            finally:
                closed.append(how)

    async def run() -> None:
        before = asyncio.all_tasks()
        listing = world.placement(Endless(world.cloud)).list()
        assert (await anext(listing)).id == "m-1"
        if how == "closed":
            await listing.aclose()
        elif how == "cut off":
            with pytest.raises(ProviderError):
                await anext(listing)
        else:
            reading = asyncio.ensure_future(anext(listing))
            await world.clock.sleep(1)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        assert closed == [how]
        assert asyncio.all_tasks() == before

    world.clock.run(run())


def test_a_call_that_the_provider_itself_cancels_is_faulty(world):
    class Cancels(GoodProvider):
        async def get(self, machine_id):
            raise asyncio.CancelledError

    async def run() -> None:
        with pytest.raises(ProviderError, match="cancelled its own call"):
            await world.placement(Cancels(world.cloud)).get("m-1")

    world.clock.run(run())
    assert world.outcomes() == [("get", "faulty")]


def test_a_list_that_breaks_is_told_as_broken(world):
    class Breaks(GoodProvider):
        async def list(self):
            yield self.status(self.cloud.instances[0])
            raise ValueError("page two is not JSON")

    placement = world.placement(Breaks(world.cloud))

    async def run() -> None:
        await placement.create(spec("m-1"), world.clock.now() + 60, still_wanted)
        with pytest.raises(ProviderError):
            [status async for status in placement.list()]

    world.clock.run(run())
    assert world.outcomes()[-1] == ("list", "faulty")


def test_the_outcomes_are_all_there_are():
    errors = {"no_capacity", "quota_reached", "rejected", "unreachable", "faulty", "throttled"}
    assert set(get_args(CallOutcome)) == errors | {"ok", "cancelled"}
