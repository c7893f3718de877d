"""Calls to Daily are counted and timed, each attempt by what came of it."""

import asyncio

import pytest

from dispatcher.transports.calls import RoomCall, RoomCallOutcome, outcome_of
from dispatcher.transports.daily_api import DailyApi
from dispatcher.transports.errors import NoAnswer, Refused, RoomError
from tests.daily.fake import API_KEY, FakeDaily, InPlaceOfTheNetwork
from tests.daily.harness import until_rooms_are_looked_after, with_daily
from tests.dispatcher.harness import deployment
from tests.dispatcher.telemetry.exposition import Exposition, scrape
from tests.doubles import VirtualClock

METRIC = "switchboard_room_call_seconds"
ANSWER_SECONDS = 0.5


class Asked:
    """An API, what it was asked for, and what was told of it."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.daily = FakeDaily(self.clock, seconds=lambda: ANSWER_SECONDS)
        self.told: list[RoomCall] = []
        network = InPlaceOfTheNetwork(self.daily)
        self.api = DailyApi(API_KEY, "https://api.daily.co/v1", self.clock, network, self.told.append)

    async def create(self) -> None:
        await self.api.create_room("any", {}, self.clock.now() + 30)


@pytest.mark.parametrize(
    ("fault", "outcome", "error"),
    [
        ("refused", "rejected", Refused),
        ("failed", "unreachable", NoAnswer),
        ("lost request", "unreachable", NoAnswer),
        ("lost reply", "unreachable", NoAnswer),
        ("garbage", "unreachable", NoAnswer),
    ],
)
def test_what_came_of_a_call(fault, outcome, error: type[RoomError]):
    asked = Asked()
    asked.daily.fail("POST /rooms", fault)
    with pytest.raises(error):
        asked.clock.run(asked.create())
    assert asked.told == [RoomCall("create_room", outcome, ANSWER_SECONDS)]


def test_each_attempt_counts_and_its_wait_does_not():
    asked = Asked()
    asked.daily.fail("POST /rooms", "throttled", "throttled")
    asked.clock.run(asked.create())
    outcomes: list[RoomCallOutcome] = ["throttled", "throttled", "ok"]
    assert asked.told == [RoomCall("create_room", outcome, ANSWER_SECONDS) for outcome in outcomes]


async def test_a_call_that_nobody_waits_for_any_more():
    asked = Asked()
    asked.daily.held = asyncio.Event()
    asking = asyncio.create_task(asked.create())
    while not asked.daily.calls and not asking.done():
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert asked.told == [RoomCall("create_room", "cancelled", 0.0)]


def test_a_fault_of_ours_is_not_daily_s():
    assert outcome_of(AttributeError("of None")) == "faulty"


def calls(shown: Exposition) -> dict[tuple[str, str], float]:
    """(action, outcome) → calls."""
    return {
        (sample.labels["action"], sample.labels["outcome"]): sample.value
        for sample in shown.samples
        if sample.name == f"{METRIC}_count"
    }


async def test_a_dispatcher_shows_its_calls(tmp_path):
    async with with_daily(tmp_path, daily_domain_id=None) as (running, daily):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
        await until_rooms_are_looked_after(running)
        session = {
            ("get_domain", "ok"): 1,
            ("create_token", "ok"): 2,
            ("create_room", "ok"): 1,
            ("delete_room", "ok"): 1,
        }
        assert calls(await scrape(running)) == session
        daily.fail("POST /rooms", "refused")
        assert (await running.http.post("/start")).status_code == 502
        # Whether there is a room of that name all the same is asked, and that there is none is an answer.
        assert calls(await scrape(running)) == {
            **session,
            ("create_token", "ok"): 4,
            ("create_room", "rejected"): 1,
            ("get_room", "ok"): 1,
        }


async def test_a_deployment_without_rooms_shows_none(tmp_path):
    async with deployment(tmp_path) as running:
        await running.start()
        assert calls(await scrape(running)) == {}
