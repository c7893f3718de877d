"""Starts that a dispatcher left half done go on at another one."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dispatcher.domain import transitions
from dispatcher.domain.admission import Limits
from dispatcher.domain.deadlines import ROOM_SETTLING_SECONDS, START_SHARE
from dispatcher.domain.model import Machine, MachineState, Session, SessionState
from dispatcher.domain.timeline import Cause
from dispatcher.machines.fleet import Fleet, NoMachine, NotWanted
from dispatcher.machines.provider import NoCapacity, Throttled, Unreachable
from dispatcher.sessions.launches import Launches
from dispatcher.sessions.maintenance.leader import REAPER, Leadership
from dispatcher.sessions.repository import Repository
from dispatcher.settings import AgentSettings
from dispatcher.store.store import Store
from dispatcher.store.writes import Writes
from tests.dispatcher.harness import (
    AN_EXIT_AND_MORE,
    START_OF_TIME,
    Deployment,
    ManualClock,
    ScriptedProvider,
    deployment,
    eventually,
)
from tests.dispatcher.rows import rows

ALLOWED = Limits({"echo": 10}, {"echo": 0})
CAUSE = Cause("tester", 0)


def agents(**more) -> dict[str, AgentSettings]:
    return {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), **more)}


async def leave(
    running: Deployment, launcher: str | None, *, placement: str = "scripted", within: float = 30
) -> Session:
    """Leave what a dispatcher leaves that dies between the intent and the provider's answer.

    Args:
        within: Until when the session has to start, in seconds.
    """
    now = running.clock.now()
    session, machine = rows(at=now, provider="scripted", start_timeout_seconds=within)
    machine = replace(machine, placement=placement, create_by=now + START_SHARE * within, launcher=launcher)
    assert await running.dispatcher.store.writes.add(session, machine, machine, ALLOWED, "tester")
    return session


async def started(running: Deployment, session: Session, *, beside: Deployment | None = None) -> Machine:
    """The session's machine once it is known to run, with the looks of the reaper that this takes.

    Args:
        beside: Another replica, which lives on meanwhile.
    """

    async def machine() -> Machine:
        await running.look(0.5)
        if beside is not None:
            await beside.dispatcher.leadership.keep()
        found = await running.dispatcher.store.machine(session.machine_id)
        assert found is not None
        return found

    return await eventually(machine, lambda found: found.state is MachineState.started)


@pytest.mark.parametrize("launcher", [None, "a-dead-one"])
async def test_a_start_that_was_left_before_the_call_goes_on(tmp_path, launcher):
    async with deployment(tmp_path) as running:
        session = await leave(running, launcher)
        machine = await started(running, session)
        assert machine.launcher == running.dispatcher.replica
        assert running.provider.running == [session.machine_id]
        said = await running.machine_of(session.id)
        await said.hello("waiting")
        await running.in_phase(session.id, "waiting")


async def test_a_start_whose_answer_nobody_heard_is_not_asked_for_again(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.appear("m-0")
        session = await leave(running, "a-dead-one")
        running.provider.appear(session.machine_id)
        await started(running, session)
        assert running.provider.asked == 0


async def test_a_start_that_was_taken_over_is_launched_once_also_if_the_store_fails_then(tmp_path):
    """The search for admitted starts passes over those that are being launched already."""

    async with deployment(tmp_path) as running:
        session = await leave(running, "a-dead-one")
        machine = await running.dispatcher.store.machine(session.machine_id)
        assert machine is not None
        assert await running.dispatcher.launcher.take_over(session, machine)
        running.dispatcher.launcher.catch_up()
        await started(running, session)
        await running.settle()
        assert running.provider.asked == 1


async def test_a_start_that_was_taken_over_unheard_is_looked_for_before_it_is_asked_for(
    tmp_path, monkeypatch
):
    async with deployment(tmp_path) as running:
        launcher = running.dispatcher.launcher
        session = await leave(running, "a-dead-one")
        machine = await running.dispatcher.store.machine(session.machine_id)
        assert machine is not None
        running.provider.appear(session.machine_id)
        change = Repository.change_machine

        async def kept_unheard(*given):
            await change(*given)
            raise OperationalError("the connection was lost", {}, Exception())

        with monkeypatch.context() as patched:
            patched.setattr(Repository, "change_machine", kept_unheard)
            with pytest.raises(OperationalError):
                await launcher.take_over(session, machine)
        launcher.catch_up()
        await started(running, session)
        assert running.provider.asked == 0


async def test_a_start_that_was_left_at_one_placement_may_end_at_another(tmp_path):
    second = ScriptedProvider()

    async with deployment(tmp_path, second=second) as running:
        running.provider.fault = None
        session = await leave(running, "a-dead-one", placement="second")
        second.appear(session.machine_id)
        machine = await started(running, session)
        assert machine.placement == "second"
        assert running.provider.asked == 0


@pytest.mark.parametrize("is_there", [True, False])
async def test_start_goes_on_when_the_replica_that_took_it_over_dies_too(tmp_path, monkeypatch, is_there):
    second = ScriptedProvider()

    async with deployment(tmp_path, second=second) as running:
        dispatcher, first = running.dispatcher, running.provider
        first.gate, first.fault = asyncio.Event(), Unreachable("connection reset")
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, first.asked), lambda asked: asked == 1)
        # Another replica finds nothing there, asks the second placement, and dies.
        session, machine = await dispatcher.store.session_with_machine(session_id)
        assert session is not None
        assert machine is not None

        def elsewhere(machine: Machine) -> Machine:
            return replace(machine, launcher="a-dead-one", placement="second")

        await dispatcher.store.writes.update_machine(machine.id, elsewhere, Cause("tester", 0))
        left = await dispatcher.store.machine(machine.id)
        assert left is not None
        if is_there:
            second.appear(machine.id)
        assert await dispatcher.launcher.take_over(session, left)
        looked_up, get = asyncio.Event(), first.get

        async def tell(machine_id: str):
            looked_up.set()
            return await get(machine_id)

        monkeypatch.setattr(first, "get", tell)
        first.gate.set()
        await looked_up.wait()
        first.fault = None
        found = await started(running, session)
        assert found.placement == ("second" if is_there else "scripted")
        assert (first.asked, second.asked) == ((1, 0) if is_there else (2, 0))


async def test_a_start_of_which_nobody_could_find_out_what_became_says_so(tmp_path, monkeypatch):
    async with deployment(tmp_path) as running:

        async def no_answer(*_):
            raise Unreachable("connection refused")

        monkeypatch.setattr(running.provider, "get", no_answer)
        monkeypatch.setattr(running.provider, "stop", no_answer)
        session = await leave(running, "a-dead-one")

        async def found():
            await running.look(0.5)
            return await running.session(session.id)

        failed = await eventually(found, lambda found: found["state"] == "failed")
        assert (failed["reason"], running.provider.asked) == ("unreachable", 0)
        assert failed["message"].startswith("The dispatcher that asked for the machine died, and nobody")
        assert "connection refused" in failed["detail"]


async def test_a_start_is_launched_once_and_not_after_its_time(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        session, machine = await running.dispatcher.store.session_with_machine(session_id)
        assert session is not None
        assert machine is not None
        assert machine.create_by is not None
        for until in (machine.create_by - 0.001, machine.create_by, machine.create_by + 3600):
            running.clock.advance(until - running.clock.now())
            running.dispatcher.launcher.launch(session, machine)
            await running.settle()
            assert running.provider.asked == 1


async def test_a_start_of_a_living_launcher_is_left_to_it(tmp_path):
    async with deployment(tmp_path) as running:
        running.provider.gate = asyncio.Event()
        asking = asyncio.create_task(running.start())
        await eventually(lambda: asyncio.sleep(0, running.provider.asked), lambda asked: asked == 1)
        for _ in range(20):
            running.clock.advance(0.5)
            await running.dispatcher.reaper.tick()
        assert running.provider.asked == 1
        running.provider.gate.set()
        await asking


async def test_a_restart_goes_on_with_what_the_drain_could_not_finish(tmp_path):
    provider = ScriptedProvider()
    provider.gate = asyncio.Event()
    patient = agents(start_timeout_seconds=AN_EXIT_AND_MORE)

    async with deployment(tmp_path, provider=provider, agents=patient) as first:
        session_id = (await first.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, provider.asked), lambda asked: asked == 1)
    assert provider.running == []
    provider.gate = None
    async with deployment(tmp_path, provider=provider, clock=first.clock) as second:
        session = await second.dispatcher.store.session(session_id)
        assert session is not None
        assert session.state is SessionState.starting
        await started(second, session)
        assert provider.running == [session.machine_id]


async def test_what_the_last_round_began_ends_with_the_dispatcher(tmp_path, monkeypatch):
    in_round, may_go_on = asyncio.Event(), asyncio.Event()
    before = asyncio.all_tasks()
    async with deployment(tmp_path) as running:
        reaper, store = running.dispatcher.reaper, running.dispatcher.store
        launcher = running.dispatcher.launcher
        due_machines, stop, take_over, begun = store.due_machines, reaper.stop, launcher.take_over, []

        async def due_later(*wanted: Any) -> Sequence[tuple[Machine, Session | None]]:
            in_round.set()
            await may_go_on.wait()
            return await due_machines(*wanted)

        def stop_in_the_round() -> None:
            stop()
            may_go_on.set()

        async def begin(*wanted: Any) -> None:
            begun.append(wanted)
            await take_over(*wanted)

        # At the exit the harness lets seconds pass in milliseconds, which no lease lives through.
        monkeypatch.setattr(Leadership, "held", True)
        monkeypatch.setattr(launcher, "take_over", begin)
        monkeypatch.setattr(store, "due_machines", due_later)
        monkeypatch.setattr(reaper, "stop", stop_in_the_round)
        running.provider.gate = asyncio.Event()
        session = await leave(running, "a-dead-one", within=AN_EXIT_AND_MORE)
        reaper.nudge()
        await in_round.wait()
    assert len(begun) == 1
    assert asyncio.all_tasks() == before
    running.provider.gate.set()
    async with deployment(tmp_path, provider=running.provider, clock=running.clock) as second:
        await started(second, session)
        assert second.provider.running == [session.machine_id]


async def test_one_replica_goes_on_with_what_a_dead_one_left(tmp_path, postgres_url):
    clock, provider = ManualClock(), ScriptedProvider()
    shared = {"provider": provider, "clock": clock, "database_url": postgres_url}

    async with deployment(tmp_path, **shared) as a, deployment(tmp_path, **shared) as b:
        assert a.dispatcher.leadership.held
        session = await leave(a, "a-dead-one")
        machine = await started(a, session, beside=b)
        assert machine.launcher == a.dispatcher.replica
        assert provider.asked == 1
        left = await leave(a, b.dispatcher.replica)
        for _ in range(10):
            await a.look(0.5)
            await b.dispatcher.leadership.keep()
        assert provider.asked == 1, "it lives, and asks for its machine itself"
        assert (await a.session(left.id))["state"] == "starting"


async def test_a_launcher_that_was_taken_for_dead_asks_nobody_any_more(tmp_path):
    second = ScriptedProvider()

    async with deployment(tmp_path, second=second) as running:
        provider, store = running.provider, running.dispatcher.store
        provider.gate, provider.fault = asyncio.Event(), NoCapacity("full")
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, provider.asked), lambda asked: asked == 1)
        cause = Cause("tester", running.clock.now())
        await store.beat("another", ("another",), {}, False)
        await store.writes.update_machine(
            f"m-{session_id}", lambda machine: replace(machine, launcher="another"), cause
        )
        provider.gate.set()
        await running.dispatcher.background.settle()
        assert second.asked == 0
        machine = await store.machine(f"m-{session_id}")
        assert machine is not None
        assert machine.state is MachineState.requested
        assert (await running.session(session_id))["state"] == "starting"


async def test_a_throttled_launcher_that_was_taken_for_dead_does_not_ask_again(tmp_path):
    async with deployment(tmp_path) as running:
        provider, store = running.provider, running.dispatcher.store
        provider.fault = Throttled("slow down", 2)
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, provider.asked), lambda asked: asked == 1)
        # Another replica took it over, and has a machine by now; this one would make a second.
        provider.fault = None
        provider.appear(f"m-{session_id}")
        await store.writes.update_session(
            session_id,
            lambda session: transitions.started(session, running.clock.now()),
            CAUSE,
            machine=lambda machine: replace(machine, launcher="another", state=MachineState.started),
        )
        await running.settle()
        assert provider.asked == 1
        assert (await running.session(session_id))["state"] == "starting"


@pytest.mark.parametrize(
    "failure",
    [
        NoMachine(NoCapacity("full"), nowhere=True),
        NoMachine(Unreachable("no answer"), nowhere=False),
        NotWanted(),
        ValueError("a bug"),
    ],
)
async def test_a_start_that_is_taken_over_while_its_failure_is_written_goes_on(
    tmp_path, monkeypatch, failure
):
    async with deployment(tmp_path) as running:
        store, update = running.dispatcher.store, Writes.update_session

        async def fails(*_, **__):
            raise failure

        async def taken_over_before(self: Writes, session_id: str, *given, **more):
            await self.update_machine(
                f"m-{session_id}", lambda machine: replace(machine, launcher="another"), CAUSE
            )
            return await update(self, session_id, *given, **more)

        monkeypatch.setattr(Fleet, "create", fails)
        monkeypatch.setattr(Writes, "update_session", taken_over_before)
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await running.dispatcher.background.settle()
        session, machine = await store.session_with_machine(session_id)
        assert session is not None
        assert machine is not None
        assert (session.state, machine.state) == (SessionState.starting, MachineState.requested)
        assert (machine.launcher, running.provider.stopped) == ("another", [])


def test_that_another_may_have_asked_is_known_for_as_long_as_the_last_call_takes():
    clock = ManualClock()
    launches = Launches(clock)
    machine, other = (
        replace(rows(at=clock.now())[1], create_by=clock.now() + seconds) for seconds in (27.0, 300.0)
    )
    launches.inherit(machine)
    clock.advance(27 + ROOM_SETTLING_SECONDS)
    # What is no longer needed is forgotten when something is added.
    assert launches.begin(other)
    assert launches.inherited(machine.id)


async def test_overdue_sessions_are_ended_before_serving_when_another_is_the_reaper(tmp_path, postgres_url):
    """One that crashes within seconds, again and again, never gets the lease of the one before."""

    store = Store(postgres_url)
    await store.open()
    session, machine = rows(at=START_OF_TIME - 31, provider="scripted", start_timeout_seconds=30)
    machine = replace(machine, placement="scripted", create_by=START_OF_TIME, launcher="dead")
    assert await store.writes.add(session, machine, machine, ALLOWED, "tester")
    await store.beat("dead", ("dead", REAPER), {}, alone=False)
    await store.close()
    async with deployment(tmp_path, database_url=postgres_url) as running:
        assert not running.dispatcher.leadership.held
        found = await running.session(session.id)
        assert (found["state"], found["reason"]) == ("failed", "start_timeout")
