"""What is told of calls to a machines API."""

import asyncio
from datetime import timedelta
from typing import get_args

import pytest

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
        """What the caller is told."""
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
