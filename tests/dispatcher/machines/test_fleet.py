"""The fleet, on a clock that runs by itself."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines import failover
from dispatcher.machines.breaker import FAILURES, OPEN_SECONDS
from dispatcher.machines.failover import Abandoned, Failure, Faulty, Unknown
from dispatcher.machines.fleet import Fleet, NoMachine, NotWanted
from dispatcher.machines.placement import CREATE_SECONDS
from dispatcher.machines.provider import (
    Action,
    MachineProvider,
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rate,
    Rejected,
    Throttled,
    Unreachable,
)
from tests.doubles import (
    AtQuota,
    Buggy,
    Cloud,
    CreatesLate,
    FullProvider,
    GoodProvider,
    HasRates,
    LeavesMachines,
    ListsLate,
    LosesReplies,
    LosesRequests,
    LosesTheFirstReply,
    NeverAnswers,
    NeverStarts,
    Refuses,
    SlowProvider,
    ThrottlesFirst,
    VirtualClock,
    WrongStack,
    spec,
)

BUDGET = 27.0
MAX_DELAY = 5.0


class World:
    """Two clouds, and a fleet with a placement at each."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.near, self.far = Cloud(self.clock), Cloud(self.clock)
        self.asked: list[str] = []
        self.wanted = True

    def fleet(self, near: MachineProvider, far: MachineProvider | None = None) -> Fleet:
        return Fleet({"near": near, "far": far or GoodProvider(self.far)}, self.clock)

    async def place(self, placement: str, provider: str) -> bool:
        """As the service does it: the placement is on record before it is asked."""
        self.asked.append(placement)
        return self.wanted

    async def create(self, fleet: Fleet, machine_id: str = "m-1", names: Sequence[str] = ()):
        return await fleet.create(spec(machine_id), names, self.clock.now() + BUDGET, self.place)

    def fails(self, fleet: Fleet, names: Sequence[str] = ()) -> NoMachine:
        with pytest.raises(NoMachine) as failed:
            self.clock.run(self.create(fleet, names=names))
        return failed.value

    def machines(self) -> tuple[int, int]:
        """Count the machines that run at each placement."""
        return len(self.near.running()), len(self.far.running())


@pytest.fixture
def world():
    return World()


def test_the_first_placement_gives_the_machine_and_nobody_waits(world):
    before = world.clock.now()
    status = world.clock.run(world.create(world.fleet(GoodProvider(world.near))))
    assert status.state is MachineState.started
    assert (world.machines(), world.asked) == ((1, 0), ["near"])
    assert world.clock.now() == before


def test_an_agents_own_order_is_followed(world):
    fleet = world.fleet(GoodProvider(world.near))
    world.clock.run(world.create(fleet, names=("far", "near")))
    assert (world.machines(), fleet.first(("far", "near"))[0]) == ((0, 1), "far")


@pytest.mark.parametrize("kind", [FullProvider, AtQuota])
def test_a_placement_without_room_is_passed_over_at_once(world, kind):
    before = world.clock.now()
    world.clock.run(world.create(world.fleet(kind(world.near))))
    assert (world.machines(), world.asked) == ((0, 1), ["near", "far"])
    assert world.clock.now() == before


def test_a_rejection_ends_the_search(world):
    failed = world.fails(world.fleet(WrongStack(world.near)))
    assert isinstance(failed.error, Rejected)
    assert (str(failed), failed.nowhere) == ("near: no such image", True)
    assert world.asked == ["near"]


def test_who_is_throttled_asks_again_when_it_is_allowed(world):
    before = world.clock.now()
    world.clock.run(world.create(world.fleet(ThrottlesFirst(world.near, times=2, retry_after=3))))
    assert world.machines() == (1, 0)
    assert world.clock.now() - before == 6


@pytest.mark.parametrize(
    "waits",
    [
        lambda cloud: ThrottlesFirst(cloud, times=1, retry_after=5),
        lambda cloud: HasRates(cloud, {"create": Rate(per_second=0.2)}),
    ],
)
def test_who_is_not_wanted_any_more_after_a_wait_is_not_asked_for(world, waits):
    fleet = world.fleet(waits(world.near))

    async def run():
        first = asyncio.create_task(world.create(fleet, "m-1"))
        await world.clock.sleep(1)
        second = asyncio.create_task(world.create(fleet, "m-2"))
        await world.clock.sleep(1)
        asked, world.wanted = world.near.calls["create"], False
        ended = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(ended[1], NotWanted)
        assert world.near.calls["create"] == asked == 1

    world.clock.run(run())


def test_a_throttle_beyond_the_deadline_goes_on_at_once(world):
    before = world.clock.now()
    world.clock.run(world.create(world.fleet(ThrottlesFirst(world.near, times=1, retry_after=60))))
    assert world.machines() == (0, 1)
    assert world.clock.now() == before


def test_a_throttle_without_an_end_is_told_within_the_deadline(world):
    before = world.clock.now()
    always = ThrottlesFirst(world.near, times=10**6, retry_after=0.2)
    failed = world.fails(world.fleet(always), names=("near",))
    assert isinstance(failed.error, Throttled)
    assert "near: rate exceeded" in str(failed)
    assert failed.nowhere
    assert world.clock.now() - before <= BUDGET


def test_a_throttled_caller_holds_the_others_back(world):
    provider = ThrottlesFirst(world.near, times=1, retry_after=5)
    fleet = world.fleet(provider)

    async def run():
        first = asyncio.create_task(world.create(fleet))
        await world.clock.sleep(1)
        await asyncio.gather(first, *(world.create(fleet, f"m-{n}") for n in range(2, 6)))

    world.clock.run(run())
    assert world.machines() == (5, 0)
    assert world.near.calls["create"] == 6, "only the first was throttled"


def test_start_is_refused_at_once_when_it_would_wait_too_long(world):
    began = world.clock.now()
    provider = HasRates(world.near, {"create": Rate(per_second=1)})
    fleet = world.fleet(provider)
    refused: list[tuple[float, NoMachine]] = []

    async def create(number: int) -> None:
        try:
            await fleet.create(
                spec(f"m-{number}"), ("near",), began + BUDGET, world.place, max_delay=MAX_DELAY
            )
        except NoMachine as none:
            refused.append((world.clock.now(), none))

    async def run():
        await asyncio.gather(*(create(number) for number in range(30)))

    world.clock.run(run())
    assert [at - began for at in provider.created_at] == [0, 1, 2, 3, 4, 5]
    assert [at for at, _ in refused] == [began] * 24
    assert all(isinstance(none.error, Throttled) and none.nowhere for _, none in refused)


def test_a_start_that_an_api_throttles_for_long_goes_on_to_the_next_placement(world):
    before = world.clock.now()
    fleet = world.fleet(ThrottlesFirst(world.near, times=1, retry_after=6))
    world.clock.run(fleet.create(spec(), (), before + BUDGET, world.place, max_delay=MAX_DELAY))
    assert (world.machines(), world.clock.now()) == ((0, 1), before)


def test_start_waits_no_longer_than_its_delay_when_throttled_again_and_again(world):
    before = world.clock.now()
    fleet = world.fleet(ThrottlesFirst(world.near, times=10**6, retry_after=2))
    with pytest.raises(NoMachine):
        world.clock.run(fleet.create(spec(), ("near",), before + BUDGET, world.place, max_delay=MAX_DELAY))
    assert world.clock.now() - before == 4, "the next turn would come after 6 s"


def test_a_delay_is_refused_only_when_no_placement_is_sooner(world):
    rates: dict[Action, Rate] = {"create": Rate(per_second=0.1)}
    near, far = HasRates(world.near, rates), HasRates(world.far, rates)
    fleet = world.fleet(near, far)
    for name in ("near", "far"):
        fleet.check_delay("m-9", (), MAX_DELAY)
        world.clock.run(world.create(fleet, f"m-{name}", (name,)))
    with pytest.raises(Throttled, match=r"near: .* in 10\.0 s; far: .* in 10\.0 s") as refused:
        fleet.check_delay("m-9", (), MAX_DELAY)
    assert refused.value.retry_after == 10
    fleet.check_delay("m-9", (), 10)


def test_throttled_starts_are_logged_once_a_second(world, caplog):
    provider = HasRates(world.near, {"create": Rate(per_second=0.01)})
    fleet = world.fleet(provider)
    world.clock.run(world.create(fleet, names=("near",)))

    async def run():
        for _ in range(3):
            for number in range(100):
                with pytest.raises(NoMachine):
                    await world.create(fleet, f"m-{number + 2}", ("near",))
            await world.clock.sleep(1)

    world.clock.run(run())
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split(" starts")[0] for line in lines] == [f"throttled: {times}" for times in (1, 100, 100)]


def test_calls_stay_under_the_published_rate(world):
    provider = HasRates(world.near, {"create": Rate(per_second=2, burst=3)})
    fleet = world.fleet(provider)

    async def run():
        await asyncio.gather(*(world.create(fleet, f"m-{n}") for n in range(13)))

    world.clock.run(run())
    assert world.machines() == (13, 0)
    start = provider.created_at[0]
    assert [at - start for at in provider.created_at] == [0, 0, 0] + [n * 0.5 for n in range(1, 11)]


def test_who_would_wait_too_long_for_a_turn_goes_on(world):
    fleet = world.fleet(HasRates(world.near, {"create": Rate(per_second=0.1)}))

    async def run():
        await asyncio.gather(*(world.create(fleet, f"m-{n}") for n in range(5)))

    world.clock.run(run())
    assert world.machines() == (3, 2), "after 0, 10 and 20 s; the others would have waited for 30 s and more"


@pytest.mark.parametrize(
    ("provider", "seconds"),
    [
        (LosesReplies, 0),
        (LosesTheFirstReply, 0),
        (lambda cloud: ListsLate(cloud, 10), 10),
        (lambda cloud: CreatesLate(cloud, 10), 10),
        (lambda cloud: SlowProvider(cloud, CREATE_SECONDS - 1), CREATE_SECONDS - 1),
        (Buggy, 0),
    ],
)
def test_a_machine_whose_answer_was_lost_is_found_and_not_made_twice(world, provider, seconds):
    before = world.clock.now()
    status = world.clock.run(world.create(world.fleet(provider(world.near))))
    assert (status.id, status.state) == ("m-1", MachineState.started)
    assert world.machines() == (1, 0)
    assert world.near.calls["create"] == 1
    assert world.clock.now() - before <= seconds


def test_a_lost_request_is_repeated_once_it_is_certain_that_nothing_came_of_it(world):
    world.clock.run(world.create(world.fleet(LosesRequests(world.near, times=2))))
    assert world.machines() == (1, 0)
    assert world.near.calls == {"create": 3, "get": 2}


def test_after_a_few_lost_requests_the_next_placement_is_asked(world):
    world.clock.run(world.create(world.fleet(LosesRequests(world.near, times=10))))
    assert world.machines() == (0, 1)
    assert world.near.calls["create"] == failover.ATTEMPTS


def test_no_other_placement_is_asked_when_one_does_not_answer(world):
    before = world.clock.now()
    failed = world.fails(world.fleet(NeverAnswers(world.near)))
    assert isinstance(failed.error, Unreachable)
    assert not failed.nowhere
    assert world.machines() == (0, 0)
    assert world.asked == ["near"]
    assert world.clock.now() - before <= BUDGET


def test_a_stop_that_works_proves_that_there_is_no_machine(world):
    class OnlyStops(LosesReplies):
        async def get(self, machine_id):
            raise Unreachable("the read side is down")

    world.clock.run(world.create(world.fleet(OnlyStops(world.near))))
    assert world.machines() == (0, 1)
    assert world.near.calls["stop"] >= 1


def test_a_stop_proves_nothing_as_long_as_the_machine_may_still_come(world):
    class OnlyStops(CreatesLate):
        async def get(self, machine_id):
            raise Unreachable("the read side is down")

    world.clock.run(world.create(world.fleet(OnlyStops(world.near, 8))))
    world.clock.advance(100)
    assert world.machines() == (0, 1)


def test_a_create_that_comes_through_after_the_deadline_is_not_followed_by_another(world):
    failed = world.fails(world.fleet(CreatesLate(world.near, BUDGET + 10)))
    assert isinstance(failed.error, Unreachable)
    assert not failed.nowhere
    assert (world.near.calls["create"], world.machines()[1]) == (1, 0)


def test_a_machine_that_never_starts_is_no_error_of_the_placement(world):
    status = world.clock.run(world.create(world.fleet(NeverStarts(world.near))))
    assert status.state is MachineState.requested
    assert world.machines() == (1, 0)


def test_a_machine_that_is_no_longer_wanted_is_asked_for_no_further(world):
    world.wanted = False
    with pytest.raises(NotWanted):
        world.clock.run(world.create(world.fleet(GoodProvider(world.near))))
    assert world.machines() == (0, 0)


def test_without_any_time_nobody_is_asked(world):
    async def run():
        await world.fleet(GoodProvider(world.near)).create(spec(), (), world.clock.now(), world.place)

    with pytest.raises(NoMachine) as failed:
        world.clock.run(run())
    assert failed.value.nowhere
    assert world.asked == []


def test_a_placement_that_keeps_failing_is_skipped_for_a_while_and_then_probed(world):
    near = LosesRequests(world.near, times=FAILURES)
    fleet = world.fleet(near)
    world.clock.run(world.create(fleet, "m-1"))
    assert world.machines() == (0, 1)

    asked = world.near.calls["create"]
    world.clock.run(world.create(fleet, "m-2"))
    assert (world.near.calls["create"], world.machines()) == (asked, (0, 2)), "it is skipped"
    assert fleet.first()[0] == "far"

    world.clock.advance(OPEN_SECONDS)
    world.clock.run(world.create(fleet, "m-3"))
    world.clock.run(world.create(fleet, "m-4"))
    assert world.machines() == (2, 2), "the probe worked"


def test_the_only_placement_that_keeps_failing_says_for_how_long_it_is_skipped(world):
    fleet = Fleet({"near": LosesRequests(world.near, times=100)}, world.clock)
    world.fails(fleet)
    failed = world.fails(fleet)
    assert isinstance(failed.error, Unreachable)
    assert failed.nowhere
    assert "near: did not answer 3 times in a row" in str(failed)


@pytest.mark.parametrize("no", [NoCapacity("full"), QuotaReached("6 vCPU"), Rejected("no image")])
def test_a_clear_no_opens_no_breaker(world, no):
    fleet = Fleet({"near": Refuses(world.near, no)}, world.clock)
    for _ in range(FAILURES * 2):
        assert type(world.fails(fleet).error) is type(no)
    assert world.near.calls["create"] == FAILURES * 2


def test_machines_are_looked_up_listed_and_stopped_where_they_are(world):
    fleet = world.fleet(FullProvider(world.near))

    async def run():
        await world.create(fleet)
        assert await fleet.get("near", "m-1") is None
        assert [status.id async for status in fleet.list("far")] == ["m-1"]
        await fleet.stop("far", "m-1", timedelta(seconds=1))
        status = await fleet.get("far", "m-1")
        assert status is not None
        assert status.state is MachineState.gone
        assert [status.id async for status in fleet.list("far")] == []

    world.clock.run(run())


def test_a_machine_that_nobody_was_asked_for_is_nowhere(world):
    fleet = world.fleet(NeverAnswers(world.near))

    async def run():
        await fleet.stop(None, "m-1", timedelta(0))
        return await fleet.get(None, "m-1")

    assert world.clock.run(run()) is None


def test_a_placement_that_left_the_settings_is_named(world):
    with pytest.raises(Unreachable, match="'old' is not a placement of this deployment; it has: near, far"):
        world.clock.run(world.fleet(GoodProvider(world.near)).get("old", "m-1"))


# What is told when no placement gave a machine.

FULL, QUOTA = Failure("a", NoCapacity("zone a is full")), Failure("b", QuotaReached("6 vCPU"))
DOWN, BUSY = Failure("c", Unreachable("no route")), Failure("d", Throttled("slow down", 4))
WRONG, LOST = Failure("e", Rejected("no image")), Failure("f", Unknown("no answer"))


BUG = Failure("g", Faulty("a bug"))


@pytest.mark.parametrize(
    ("failures", "kind", "words"),
    [
        ([FULL], NoCapacity, "a: zone a is full"),
        ([QUOTA, FULL], NoCapacity, "b: 6 vCPU; a: zone a is full"),
        ([DOWN, QUOTA], QuotaReached, "c: no route; b: 6 vCPU"),
        ([DOWN], Unreachable, "c: no route"),
        ([FULL, BUSY, QUOTA], Throttled, "a: zone a is full; d: slow down; b: 6 vCPU"),
        ([DOWN, BUG], Faulty, "c: no route; g: a bug"),
        ([BUSY, WRONG], Rejected, "d: slow down; e: no image"),
        ([FULL, LOST], Unreachable, "a: zone a is full; f: no answer"),
    ],
)
def test_the_verdict_is_of_one_kind_and_has_the_words_of_all(failures, kind, words):
    error = failover.verdict(failures)
    assert type(error) is kind
    assert str(error) == words


def test_the_shortest_wait_is_told():
    error = failover.verdict([BUSY, Failure("g", Throttled("later", 2))])
    assert isinstance(error, Throttled)
    assert error.retry_after == 2


errors: st.SearchStrategy[ProviderError] = st.one_of(
    st.sampled_from([NoCapacity, QuotaReached, Rejected, Unreachable, Unknown]).map(lambda kind: kind("no")),
    st.floats(0, 100).map(lambda seconds: Throttled("no", seconds)),
)


@given(st.lists(errors.map(lambda error: Failure("p", error)), min_size=1))
def test_nothing_is_certain_after_an_unknown_and_the_search_ends_with_it(failures):
    unknown = any(isinstance(failure.error, Unknown) for failure in failures)
    assert failover.nowhere(failures) is not unknown
    if unknown:
        assert not failover.may_go_on(failures)
    assert any(isinstance(failure.error, type(failover.verdict(failures))) for failure in failures)


faults = st.sampled_from(
    [
        GoodProvider,
        LosesReplies,
        FullProvider,
        WrongStack,
        NeverAnswers,
        LosesTheFirstReply,
        lambda cloud: ListsLate(cloud, 8),
        lambda cloud: CreatesLate(cloud, 8),
        lambda cloud: CreatesLate(cloud, 40),
        lambda cloud: LosesRequests(cloud, 1),
        lambda cloud: LosesRequests(cloud, 100),
        lambda cloud: SlowProvider(cloud, 15),
        lambda cloud: SlowProvider(cloud, 25),
        lambda cloud: ThrottlesFirst(cloud, 2, 4),
        lambda cloud: ThrottlesFirst(cloud, 100, 0.5),
    ]
)


@given(faults, faults)
def test_at_most_one_machine_is_made_where_its_row_says_with_any_two_faults(near, far):
    world = World()
    fleet = world.fleet(near(world.near), far(world.far))
    before = world.clock.now()
    try:
        world.clock.run(world.create(fleet))
    except NoMachine as none:
        certain, expected = none.nowhere, 0
    else:
        certain, expected = True, 1
    assert world.clock.now() - before <= BUDGET
    world.clock.advance(100)  # what comes late has come
    there = {"near": len(world.near.running()), "far": len(world.far.running())}
    last = world.asked[-1]
    if certain:
        assert sum(there.values()) == expected
    assert sum(there.values()) <= 1
    assert sum(there.values()) == there[last]


def test_a_create_that_somebody_left_is_looked_up_before_anybody_is_asked_again(world):
    near = ListsLate(world.near, 5)
    world.near.start(spec("m-1"), near.identity("m-1"))
    deadline = world.clock.now() + BUDGET
    fleet = world.fleet(near)
    status = world.clock.run(fleet.resume(spec("m-1"), (), deadline, world.place, "near"))
    assert status.state is MachineState.started
    assert (world.machines(), world.near.calls["create"]) == ((1, 0), 0)


def test_a_create_that_somebody_left_goes_on_once_there_is_certainly_none(world):
    began, near = world.clock.now(), ListsLate(world.near, 5)
    fleet = world.fleet(near, GoodProvider(world.far))
    world.clock.run(fleet.resume(spec("m-1"), (), began + BUDGET, world.place, "far"))
    assert world.far.calls["get"] > 0
    assert sum(world.machines()) == 1


def test_a_create_that_somebody_left_where_nothing_answers_is_asked_of_nobody(world):
    fleet = world.fleet(NeverAnswers(world.near))
    deadline = world.clock.now() + BUDGET
    with pytest.raises(NoMachine) as failed:
        world.clock.run(fleet.resume(spec("m-1"), (), deadline, world.place, "near"))
    assert not failed.value.nowhere
    assert isinstance(failed.value.error, Abandoned)
    assert (world.machines(), world.asked) == ((0, 0), [])


def leaves(world: World, *faults: ProviderError) -> LeavesMachines:
    """Leave a placement at `near`, whose dispatcher died before it started its machine."""
    near = LeavesMachines(world.near, *faults)
    world.clock.run(near.leave(spec("m-1")))
    return near


def resumed(world: World, fleet: Fleet) -> MachineStatus:
    deadline = world.clock.now() + BUDGET
    return world.clock.run(fleet.resume(spec("m-1"), (), deadline, world.place, "near"))


@pytest.mark.parametrize("lost", [0, 2])
def test_a_machine_that_somebody_left_before_its_start_is_started(world, lost):
    fleet = world.fleet(leaves(world, *[Unreachable("connection reset")] * lost))
    assert resumed(world, fleet).state is MachineState.started
    # Its session may be over by now: that is looked for before every start.
    assert world.asked == ["near"] * (lost + 1)
    assert (world.machines(), world.near.calls["create"]) == ((1, 0), 1)


def test_a_machine_whose_create_broke_off_before_its_start_is_started(world):
    near = LeavesMachines(world.near)
    assert world.clock.run(world.create(world.fleet(near))).state is MachineState.started
    assert (world.machines(), world.near.calls["create"]) == ((1, 0), 1)


def test_a_machine_that_is_only_looked_at_is_not_started(world):
    fleet = world.fleet(leaves(world))
    status = world.clock.run(fleet.get("near", "m-1"))
    assert status is not None
    assert (status.state, world.near.calls["start"]) == (MachineState.requested, 0)


def test_a_machine_that_was_left_is_not_started_for_a_session_that_is_over(world):
    fleet, world.wanted = world.fleet(leaves(world)), False
    assert resumed(world, fleet).state is MachineState.requested
    assert world.near.calls["start"] == 0


@pytest.mark.parametrize(
    "refusal", [NoCapacity("no space left"), QuotaReached("6 of 6"), Rejected("no file")]
)
def test_a_machine_that_was_left_and_cannot_start_is_asked_for_again(world, refusal):
    fleet = world.fleet(leaves(world, refusal))
    assert resumed(world, fleet).state is MachineState.started
    assert world.machines() == (1, 0)
    assert (world.near.calls["create"], world.near.calls["start"]) == (2, 2)


def test_left_machine_is_ended_before_another_is_created_when_its_starts_are_lost(world):
    fleet = world.fleet(leaves(world, *[Unreachable("connection reset")] * failover.LOOKUPS))
    status = resumed(world, fleet)
    assert (status.state, sum(world.machines())) == (MachineState.started, 1)
    assert world.near.calls["start"] == failover.LOOKUPS + 1
    assert (world.near.calls["stop"], world.near.calls["create"]) == (1, 2)
