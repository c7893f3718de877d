"""The end of rooms: with their sessions, within Daily's rate, whatever fails or restarts meanwhile."""

import asyncio
from pathlib import Path

import pytest

from dispatcher.domain import deadlines, transitions
from dispatcher.domain.deadlines import ROOM_SETTLING_SECONDS
from dispatcher.domain.model import MachineState
from dispatcher.domain.timeline import Cause
from dispatcher.sessions.rooms import PAUSES
from dispatcher.settings import AgentSettings
from tests.daily.fake import FakeDaily, Fault
from tests.daily.harness import agents, room_of, until_rooms_are_looked_after, with_daily
from tests.dispatcher.harness import (
    AN_EXIT_AND_MORE,
    Deployment,
    ManualClock,
    ScriptedProvider,
    deployment,
    eventually,
    pass_time,
)

SLOW = agents(start_timeout_seconds=AN_EXIT_AND_MORE)

THROTTLED: list[Fault] = ["throttled"] * 30
"""For as long as a start asks."""


async def kinds(running: Deployment, session_id: str) -> list[str]:
    return [one["event"] for one in await running.timeline(session_id)]


async def stopped(running: Deployment) -> str:
    """A session that was started and stopped."""
    session_id = (await running.start("/start?wait=started"))["sessionId"]
    await running.http.delete(f"/sessions/{session_id}")
    await running.settle()
    return session_id


async def failed(running: Deployment, code: str) -> str:
    """A session that got no room."""
    asking = asyncio.create_task(running.http.post("/start"))
    answer = await pass_time(running.clock, asking, step=0.5)
    assert answer.json()["code"] == code
    await running.settle()
    return (await running.http.get("/v1/sessions")).json()["sessions"][0]["sessionId"]


async def look(running: Deployment, after: float = 0.0) -> None:
    """Let the rooms be looked after once, however long their turns take."""
    running.clock.advance(after)
    await running.dispatcher.reaper.tick()
    await pass_time(running.clock, asyncio.create_task(running.dispatcher.rooms.look()), step=0.05)


async def test_the_room_is_deleted_when_its_session_is_over(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        session_id = await stopped(running)
        await until_rooms_are_looked_after(running)
        assert daily.rooms == {}
        assert (await kinds(running, session_id))[-1] == "room-gone"
        assert len(daily.called("DELETE /rooms")) == 1
        await until_rooms_are_looked_after(running, 100)
        assert len(daily.called("DELETE /rooms")) == 1, "once is enough"


async def test_the_room_of_a_live_session_stays(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        await until_rooms_are_looked_after(running, 5)
        assert list(daily.rooms) == [room_of(session_id)]


@pytest.mark.parametrize("fault", ["throttled", "failed", "lost request", "refused", "garbage"])
async def test_a_deletion_that_fails_comes_again(tmp_path, fault):
    async with with_daily(tmp_path) as (running, daily):
        await stopped(running)
        daily.fail("DELETE /rooms", fault)
        await look(running)
        await look(running, 3)
        assert daily.rooms == {}


async def test_during_an_outage_daily_is_asked_ever_more_rarely(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        for _ in range(3):
            await stopped(running)
        daily.dark = True
        for _ in range(120):
            await look(running, 1)
        assert 3 <= len(daily.called("DELETE /rooms")) <= 10
        daily.dark = False
        await look(running, 31)
        assert daily.rooms == {}


async def test_rooms_are_deleted_on_where_the_clock_was_set_back_after_an_outage(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        await stopped(running)
        daily.dark = True
        await look(running, 1000)
        asked = len(daily.called("DELETE /rooms"))
        assert asked > 0
        daily.dark = False
        running.clock.is_set(-600)
        await look(running, PAUSES[0])
        assert daily.rooms == {}


async def test_many_rooms_are_deleted_within_dailys_rate(tmp_path):
    async with with_daily(tmp_path, agents=agents(max_sessions=70)) as (running, daily):
        for _ in range(70):
            # Rooms, too, are created in their turn.
            asking = asyncio.create_task(running.start("/start?wait=started"))
            started = await pass_time(running.clock, asking, step=0.05)
            await running.http.delete(f"/sessions/{started['sessionId']}")
        await running.settle()
        began_at = running.clock.now()
        await look(running)
        assert daily.rooms == {}
        deletions = [call.at for call in daily.called("DELETE /rooms")]
        assert len(deletions) == 70, "a 429 would have made them more"
        assert running.clock.now() - began_at < 60
        for at in deletions:
            assert sum(at <= other < at + 30 for other in deletions) <= 50


async def test_rooms_that_a_dispatcher_left_are_deleted_by_the_next_one(tmp_path):
    clock, provider = ManualClock(), ScriptedProvider()
    daily = FakeDaily(clock)
    async with with_daily(tmp_path, daily, clock, provider=provider) as (running, _):
        await stopped(running)
        assert len(daily.rooms) == 1
    async with with_daily(tmp_path, daily, clock, provider=provider) as (running, _):
        await look(running, 1)
        assert daily.rooms == {}


async def test_a_room_whose_time_is_up_costs_no_call(tmp_path):
    async with with_daily(tmp_path, agents=agents(max_duration_seconds=60)) as (running, daily):
        session_id = await stopped(running)
        running.clock.advance(80)
        assert daily.rooms == {}, "closed by itself"
        await look(running)
        assert daily.called("DELETE /rooms") == []
        assert (await kinds(running, session_id))[-1] == "room-gone"


async def test_a_session_that_is_stopped_while_its_room_is_created_leaves_none(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        daily.held = asyncio.Event()
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, daily.calls), lambda calls: len(calls) == 1)
        await running.http.delete(f"/sessions/{session_id}")
        await running.dispatcher.reaper.tick()
        looking = asyncio.create_task(running.dispatcher.rooms.look())
        await eventually(
            lambda: asyncio.sleep(0, daily.called("DELETE /rooms")), lambda calls: len(calls) == 1
        )
        daily.held.set()
        await pass_time(running.clock, looking, step=0.05)
        await running.settle()
        await look(running, 1)
        assert daily.rooms == {}


async def test_a_creation_that_comes_through_late_is_found_again(tmp_path):
    """Its dispatcher is gone; the room was not there when it was deleted, and is there a moment later."""

    clock, provider = ManualClock(), ScriptedProvider()
    daily = FakeDaily(clock)
    async with with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW) as (running, _):
        daily.dark = True
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, daily.calls), lambda calls: len(calls) > 0)
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
    daily.dark = False
    daily.calls.clear()
    async with with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW) as (running, _):
        await look(running, 1)
        assert len(daily.called("DELETE /rooms")) == 1
        late = {"exp": int(clock.now()) + 7000, "eject_at_room_exp": True}
        daily.add(room_of(session_id), privacy="private", properties=late)
        await look(running, 10)
        assert len(daily.rooms) == 1, "not before it is due"
        await look(running, 600 + ROOM_SETTLING_SECONDS)
        assert daily.rooms == {}
        assert (await kinds(running, session_id))[-1] == "room-gone"


async def test_a_room_that_could_not_be_looked_up_is_deleted_all_the_same(tmp_path):
    """The answer to its creation was lost, and then Daily let nobody look."""

    clock, changes = ManualClock(), []
    daily = FakeDaily(clock, on_change=lambda what, name: changes.append((what, name)))
    daily.fail("POST /rooms", "lost reply")
    daily.fail("GET /rooms", "refused")
    async with with_daily(tmp_path, daily, clock) as (running, _):
        name = room_of(await failed(running, "room_rejected"))
        await look(running)
        assert changes == [("created", name), ("deleted", name)]


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ({"POST /rooms": THROTTLED}, "room_throttled"),
        ({"POST /rooms": ["refused"]}, "room_rejected"),
        ({"POST /rooms": ["refused"], "GET /rooms": ["refused"]}, "room_rejected"),
    ],
)
async def test_where_no_room_was_made_for_certain_none_is_deleted(
    tmp_path, faults: dict[str, list[Fault]], code: str
):
    """Deletions are the scarcest of Daily's calls."""

    async with with_daily(tmp_path) as (running, daily):
        for call, of in faults.items():
            daily.fail(call, *of)
        await failed(running, code)
        await look(running)
        await look(running, 600 + ROOM_SETTLING_SECONDS)
        assert daily.called("DELETE /rooms") == []


async def test_after_a_lost_reply_a_429_is_no_proof_that_there_is_no_room(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        daily.fail("POST /rooms", "lost request", *THROTTLED)
        await failed(running, "room_throttled")
        await look(running)
        assert len(daily.called("DELETE /rooms")) == 1


async def test_a_start_that_a_dispatcher_left_goes_on_with_its_room_at_another(tmp_path):
    clock, provider = ManualClock(), ScriptedProvider()
    provider.gate = asyncio.Event()
    daily = FakeDaily(clock)
    daily.held = asyncio.Event()
    first = with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW)
    running, _ = await first.__aenter__()
    session_id = (await running.start("/start?wait=none"))["sessionId"]
    await eventually(lambda: asyncio.sleep(0, daily.calls), lambda calls: len(calls) == 1)
    # It exits, and what it began is cancelled with it.
    await first.__aexit__(None, None, None)
    daily.held = None
    provider.gate = None
    async with with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW) as (running, _):
        await running.look(1)
        assert list(daily.rooms) == [room_of(session_id)]
        assert (await running.session(session_id))["startedAt"] is not None
        machine = await running.dispatcher.store.machine(f"m-{session_id}")
        assert machine is not None
        assert machine.state is MachineState.started
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
        await look(running)
        await look(running, 600 + ROOM_SETTLING_SECONDS)
        assert daily.rooms == {}


async def test_room_is_opened_by_another_dispatcher_when_the_first_left_it(tmp_path):
    clock, provider = ManualClock(), ScriptedProvider()
    daily = FakeDaily(clock)
    daily.held = asyncio.Event()
    first = with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW)
    running, _ = await first.__aenter__()
    session_id = await _machine_first(running, daily)
    await first.__aexit__(None, None, None)
    daily.held = None
    asked = provider.asked
    async with with_daily(tmp_path, daily, clock, provider=provider, agents=SLOW) as (running, _):
        await running.look(1)
        assert list(daily.rooms) == [room_of(session_id)]
        assert provider.asked == asked, "there is a machine"
        session = await running.dispatcher.store.session(session_id)
        assert session is not None
        assert session.room_state == "found"
        await running.look(1)
        assert len(daily.called("POST /rooms")) == 2, "once each"


async def test_a_room_that_another_replica_took_over_and_left_is_opened_after_all(tmp_path, monkeypatch):
    async def lives(_replica: str | None) -> bool:
        return False

    async with with_daily(tmp_path, agents=SLOW) as (running, daily):
        daily.dark = True
        session_id = await _machine_first(running, daily)
        store, us = running.dispatcher.store, running.dispatcher.leadership.replica
        machine_id = f"m-{session_id}"
        await store.writes.update_machine(
            machine_id, lambda machine: transitions.handed_on(machine, us, "another"), Cause("test", 0.0)
        )
        # It notices with its next attempt, which it does not make.
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(running.dispatcher.leadership, "is_gone", lives)
            await running.settle()
            daily.dark = False
            assert daily.rooms == {}
        # The other is not seen to live.
        await running.look(1)
        assert list(daily.rooms) == [room_of(session_id)]
        machine = await store.machine(machine_id)
        assert machine is not None
        assert machine.launcher == us


async def _machine_first(running: Deployment, daily: FakeDaily) -> str:
    """A session whose machine started, and whose room is asked for and not there yet."""
    session_id = (await running.start("/start?wait=none"))["sessionId"]
    await eventually(lambda: running.session(session_id), lambda session: session["startedAt"] is not None)
    await eventually(lambda: asyncio.sleep(0, daily.calls), lambda calls: len(calls) > 0)
    return session_id


async def test_rooms_are_forgotten_once_closed_when_the_deployment_has_no_daily_any_more(tmp_path):
    clock, provider = ManualClock(), ScriptedProvider()
    async with with_daily(tmp_path, None, clock, provider=provider) as (running, daily):
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        daily.dark = True
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
    webrtc = {"echo": AgentSettings(bot=Path("bot/agents/echo.py"))}
    async with deployment(tmp_path, clock=clock, provider=provider, agents=webrtc) as running:
        session = await running.dispatcher.store.session(session_id)
        assert session is not None
        await running.look(100)
        assert "room-gone" not in await kinds(running, session_id)
        clock.advance(deadlines.room_closes_at(session) - clock.now())
        await running.dispatcher.reaper.tick()
        # Its own rounds do it.
        await pass_time(clock, asyncio.create_task(_is_last(running, session_id, "room-gone")), step=1)


async def _is_last(running: Deployment, session_id: str, kind: str) -> None:
    await eventually(lambda: kinds(running, session_id), lambda found: found[-1] == kind)


async def test_only_the_reaper_deletes(tmp_path):
    async with with_daily(tmp_path) as (running, daily):
        await stopped(running)
        await running.dispatcher.leadership.release()
        await running.dispatcher.rooms.look()
        assert len(daily.rooms) == 1
