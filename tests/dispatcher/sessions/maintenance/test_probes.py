"""Probes of machines that are silent: the questions to providers, and what comes of the answers."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot import protocol
from dispatcher.bus import LocalBus
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.domain.timeline import Cause
from dispatcher.machines.placement import Placement
from dispatcher.machines.provider import MachineSpec, NoCapacity, Unreachable
from dispatcher.sessions.maintenance import probes
from dispatcher.sessions.maintenance.leader import Leadership
from dispatcher.store.queries import Page
from dispatcher.store.store import Store
from tests.dispatcher.harness import Deployment, ScriptedProvider, deployment, eventually
from tests.dispatcher.sessions.looks import dies, end_of, limits, look_once


async def nothing(*_where: object, **_which: object) -> Page:
    """List no machine that lives, as `Store.live_machines` does."""
    return Page((), (), (), None)


async def test_a_lost_channel_is_asked_about_however_lately_its_machine_was(tmp_path):
    async with deployment(tmp_path) as running:
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        # It has not connected yet, so its provider is asked.
        await running.dispatcher.reaper.tick()
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        await running.in_phase(session_id, "active")
        running.provider.die(machine.id, 1, "")
        await machine.connection.close()
        assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"


async def test_a_placement_that_does_not_answer_keeps_no_deadline_waiting(tmp_path, monkeypatch):
    agents = limits(start_timeout_seconds=20, client_timeout_seconds=2.0, max_sessions=12)
    async with deployment(tmp_path, agents=agents) as running:
        waiting, *silent = [(await running.start())["sessionId"] for _ in range(12)]
        await (await running.machine_of(waiting)).hello("waiting")
        await running.in_phase(waiting, "waiting")
        asked = []

        async def never(machine_id):
            asked.append(machine_id)
            await asyncio.Event().wait()

        with monkeypatch.context() as hanging:
            hanging.setattr(running.provider, "get", never)
            running.clock.advance(0.5)
            await look_once(running)
            await eventually(lambda: asyncio.sleep(0, asked), bool)
            assert (await end_of(running, waiting, after=2.0))["reason"] == "no_client"
            running.clock.advance(18)
            for session_id in silent:
                assert (await end_of(running, session_id, after=0.0))["reason"] == "start_timeout"
            still = len(set(asked))
            assert still > probes.AT_ONCE, "those whose answers did not come made way for others"


async def test_of_many_silent_machines_none_is_asked_about_twice_before_all_others_were(
    tmp_path, monkeypatch
):
    async with deployment(tmp_path, agents=limits(start_timeout_seconds=600, max_sessions=20)) as running:
        asked = Counter({f"m-{(await running.start())['sessionId']}": 0 for _ in range(20)})
        get = running.provider.get

        async def slowly(machine_id):
            asked[machine_id] += 1
            await running.clock.sleep(5.0)
            return await get(machine_id)

        with monkeypatch.context() as slow:
            slow.setattr(probes, "AT_ONCE", 2)
            slow.setattr(probes, "PAUSES", (0.5,))
            slow.setattr(running.provider, "get", slowly)
            while min(asked.values()) < 3:
                running.clock.advance(0.5)
                await look_once(running)
                assert max(asked.values()) - min(asked.values()) <= 1


async def test_machine_is_probed_again_when_something_happens_during_a_probe(tmp_path, monkeypatch):
    async with deployment(tmp_path) as running:
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        asked, answers, get = asyncio.Event(), asyncio.Event(), running.provider.get

        async def held(machine_id):
            status = await get(machine_id)
            asked.set()
            await answers.wait()
            return status

        with monkeypatch.context() as holding:
            holding.setattr(running.provider, "get", held)
            running.clock.advance(0.5)
            await look_once(running)
            await asked.wait()
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        await running.in_phase(session_id, "active")
        await dies(running, machine)
        await look_once(running)
        answers.set()
        assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"


async def test_a_channel_that_breaks_again_while_the_reaper_looks_is_not_forgotten(tmp_path, monkeypatch):
    async with deployment(tmp_path) as running:
        session_id, machine = await running.reported("active")
        store, looks = running.dispatcher.store, running.dispatcher.reaper
        find, broken = store.due_machines, []

        async def breaks_again(*arguments):
            due = await find(*arguments)
            if not broken:
                broken.append(machine.id)
                await dies(running, machine)
            return due

        monkeypatch.setattr(Store, "live_machines", nothing)
        monkeypatch.setattr(store, "due_machines", breaks_again)
        looks.lost(machine.id)
        await look_once(running)
        await look_once(running)
        assert broken
        assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"


async def test_a_machine_that_cannot_be_asked_about_is_ended_all_the_same(tmp_path, monkeypatch):
    async with deployment(tmp_path) as running:
        session_id = (await running.start("/start?wait=started"))["sessionId"]
        running.provider.deaf = True
        await running.http.delete(f"/sessions/{session_id}")
        await running.settle()
        running.provider.stopped.clear()

        async def gone_away(_machine_id):
            raise Unreachable("no answer")

        with monkeypatch.context() as silent:
            silent.setattr(running.provider, "get", gone_away)
            await running.look(1.0)
            await running.look(probes.TERMINATION_SECONDS)
            assert running.provider.stopped == [f"m-{session_id}"]


async def test_a_machine_is_missing_as_of_when_it_was_asked_about(tmp_path, monkeypatch):
    """A provider may know nothing yet of a machine that started just now, however late it says so."""

    async with deployment(tmp_path) as running:
        session_id = (await running.start())["sessionId"]
        monkeypatch.setattr(Placement, "settling", 4.0)

        with monkeypatch.context() as slow:
            asked = []

            async def late_once(machine_id):
                asked.append(machine_id)
                slow.undo()  # the next one may be asked when the provider ought to know
                running.clock.advance(5.0)

            slow.setattr(running.provider, "get", late_once)
            running.clock.advance(0.5)
            await running.dispatcher.reaper.tick()
            await running.settle()
        assert len(asked) == 1
        assert (await running.session(session_id))["state"] == "starting"


async def test_a_lost_channel_alone_ends_nothing(tmp_path):
    async with deployment(tmp_path) as running:
        session_id, machine = await running.reported("active")
        await machine.connection.close()
        for _ in range(100):
            await running.look(1)
        assert (await running.session(session_id))["state"] == "active"
        assert running.provider.stopped == []


@pytest.mark.parametrize("connected", [True, False])
async def test_a_machine_that_runs_and_reports_nothing_is_ended_after_a_limit_of_its_own(tmp_path, connected):
    async with deployment(tmp_path, unresponsive_seconds=60) as running:
        session_id, machine = await running.reported("active")
        if not connected:
            await machine.connection.close()
        for _ in range(60):
            await running.look(1)
        assert (await running.session(session_id))["state"] == "active"
        # Silent from three heartbeats on; asked about every 30 s by then.
        for _ in range(60):
            await running.look(1)
        found = await running.session(session_id)
        assert (found["state"], found["reason"]) == ("failed", "unresponsive")
        assert running.provider.stopped == [machine.id]


async def test_a_machine_that_reports_again_has_its_whole_limit_anew(tmp_path):
    async with deployment(tmp_path, unresponsive_seconds=60) as running:
        session_id, machine = await running.reported("active")
        last_heard = running.dispatcher.channels.last_heard
        for _ in range(3):
            for _ in range(50):
                await running.look(1)
            await machine.send(protocol.Heartbeat(phase="active", rss_bytes=1, cpu_seconds=1))
            now = running.clock.now()
            await eventually(lambda: asyncio.sleep(0, last_heard(machine.id)), now.__eq__)
        assert (await running.session(session_id))["state"] == "active"


async def test_a_machine_is_not_unresponsive_while_those_at_other_replicas_cannot_be_heard(
    tmp_path, monkeypatch
):
    async with deployment(tmp_path, unresponsive_seconds=30) as running:
        session_id, _ = await running.reported("active")
        with monkeypatch.context() as down:
            down.setattr(LocalBus, "stands", False)
            for _ in range(100):
                await running.look(1)
            assert (await running.session(session_id))["state"] == "active"
        for _ in range(80):
            await running.look(1)
        assert (await running.session(session_id))["reason"] == "unresponsive"


class Questioned(ScriptedProvider):
    """Remembers about whom it was asked, and answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_about: list[str] = []
        self.may_answer: dict[str, asyncio.Event] = {}

    async def get(self, machine_id: str) -> MachineStatus | None:
        self.asked_about.append(machine_id)
        if machine_id in self.may_answer:
            await self.may_answer[machine_id].wait()
        return await super().get(machine_id)

    def hold(self, machine_id: str) -> asyncio.Event:
        return self.may_answer.setdefault(machine_id, asyncio.Event())

    async def until_asked_about(self, machine_id: str) -> None:
        await eventually(lambda: asyncio.sleep(0, self.asked_about), lambda asked: machine_id in asked)


@contextlib.asynccontextmanager
async def silent_machines(
    tmp_path: Path, number: int, second: ScriptedProvider | None = None
) -> AsyncIterator[tuple[Deployment, Questioned, list[str]]]:
    """A dispatcher with machines that have started and never said a word, which its reaper does not see."""
    provider, agents = Questioned(), limits(start_timeout_seconds=600, max_sessions=number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "live_machines", nothing)
        async with deployment(tmp_path, provider=provider, second=second, agents=agents) as running:
            started = [(await running.start("/start?wait=started"))["sessionId"] for _ in range(number)]
            await running.settle()
            provider.asked_about.clear()
            yield running, provider, [f"m-{session_id}" for session_id in started]


async def test_of_many_urgent_ones_none_keeps_the_others_from_their_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "AT_ONCE", 1)

    async with silent_machines(tmp_path, 6) as (running, provider, (first, other, *urgent)):
        ask, may_answer = running.dispatcher.probes.ask, provider.hold(first)
        ask(first, "scripted")
        await provider.until_asked_about(first)
        ask(other, "scripted")
        for machine_id in urgent:
            ask(machine_id, "scripted", urgent=True)
        may_answer.set()
        await running.settle()
        assert provider.asked_about == [first, *urgent[:2], other, *urgent[2:]]


async def test_a_reaper_that_lost_its_lease_asks_about_nobody_who_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "AT_ONCE", 1)

    async with silent_machines(tmp_path, 3) as (running, provider, (first, second, third)):
        asks, may_answer = running.dispatcher.probes, provider.hold(first)
        asks.ask(first, "scripted")
        await provider.until_asked_about(first)
        asks.ask(second, "scripted")
        asks.ask(third, "scripted", urgent=True)
        asks.forget()
        may_answer.set()
        await running.settle()
        assert provider.asked_about == [first]
        asks.ask(third, "scripted")
        await running.settle()
        assert provider.asked_about == [first, third]


async def test_an_answer_that_comes_after_the_lease_was_lost_ends_no_session(tmp_path, monkeypatch):
    async with silent_machines(tmp_path, 1) as (running, provider, (machine_id,)):
        asks, may_answer = running.dispatcher.probes, provider.hold(machine_id)
        session_id = machine_id.removeprefix("m-")
        asks.ask(machine_id, "scripted")
        await provider.until_asked_about(machine_id)
        provider.die(machine_id, 1)
        with monkeypatch.context() as lost:
            lost.setattr(Leadership, "held", False)
            may_answer.set()
            await running.settle()
            assert (await running.session(session_id))["state"] == "starting"
        asks.ask(machine_id, "scripted")
        assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"


async def test_an_answer_that_comes_after_the_lease_was_lost_ends_no_machine(tmp_path, monkeypatch):
    async with silent_machines(tmp_path, 1) as (running, provider, (machine_id,)):
        provider.deaf = True
        await running.http.delete(f"/sessions/{machine_id.removeprefix('m-')}")
        await running.settle()
        provider.asked_about.clear()
        provider.stopped.clear()
        may_answer = provider.hold(machine_id)
        running.clock.advance(probes.TERMINATION_SECONDS + 1)
        await running.dispatcher.leadership.keep()
        running.dispatcher.probes.ask(machine_id, "scripted")
        await provider.until_asked_about(machine_id)
        with monkeypatch.context() as lost:
            lost.setattr(Leadership, "held", False)
            may_answer.set()
            await running.settle()
            assert provider.stopped == []
        running.dispatcher.probes.ask(machine_id, "scripted")
        await running.settle()
        assert provider.stopped == [machine_id]


async def test_a_machine_that_moved_on_is_asked_about_where_it_is_and_nowhere_else(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(probes, "AT_ONCE", 1)

    there = Questioned()
    async with silent_machines(tmp_path, 3, there) as (running, here, (first, moved, third)):
        asks, store = running.dispatcher.probes, running.dispatcher.store
        here_may_answer, there_may_answer = here.hold(first), there.hold(moved)
        asks.ask(first, "scripted")
        await here.until_asked_about(first)
        asks.ask(moved, "scripted")
        asks.ask(third, "scripted")
        cause = Cause("tester", running.clock.now())
        there.appear(moved)
        await store.writes.update_machine(moved, lambda machine: replace(machine, placement="second"), cause)
        asks.ask(moved, "second", urgent=True)
        await there.until_asked_about(moved)
        here_may_answer.set()
        await here.until_asked_about(third)
        there_may_answer.set()
        await running.settle()
        assert (here.asked_about, there.asked_about) == ([first, third], [moved])
    assert "a background task failed" not in caplog.text


async def test_a_machine_that_is_gone_where_it_was_has_not_ended_where_it_is(tmp_path):
    first, second = Questioned(), ScriptedProvider()
    first.gate, first.fault = asyncio.Event(), NoCapacity("no room after all")
    async with deployment(tmp_path, provider=first, second=second) as running:
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        machine_id = f"m-{session_id}"
        await eventually(lambda: asyncio.sleep(0, first.asked), bool)
        may_answer = first.hold(machine_id)
        running.dispatcher.probes.ask(machine_id, "scripted")
        await first.until_asked_about(machine_id)
        first.die(machine_id, 137)
        first.gate.set()
        await eventually(lambda: asyncio.sleep(0, second.running), bool)
        running.provider = second
        machine = await running.machine_of(session_id)
        await machine.hello("active")
        await running.in_phase(session_id, "active")
        may_answer.set()
        await running.settle()
        assert (await running.session(session_id))["state"] == "active"
        assert second.stopped == []


async def test_a_machine_that_is_gone_while_it_is_asked_for_is_left_to_who_asks(tmp_path):
    """A host refuses it after all, and shows it as gone before it says so: another placement has room."""

    first, second = ScriptedProvider(), ScriptedProvider()
    first.gate, first.fault = asyncio.Event(), NoCapacity("launch failed")
    async with deployment(tmp_path, provider=first, second=second) as running:
        session_id = (await running.start("/start?wait=none"))["sessionId"]
        await eventually(lambda: asyncio.sleep(0, first.asked), bool)
        first.die(f"m-{session_id}", None)
        running.dispatcher.probes.ask(f"m-{session_id}", "scripted")
        await look_once(running)
        assert (await running.session(session_id))["state"] == "starting"
        first.gate.set()
        await running.settle()
        assert second.running == [f"m-{session_id}"]
        assert (await running.session(session_id))["state"] == "starting"


class AnswersBeforeTheStart(ScriptedProvider):
    """Answers a create before the machine has started, and every later question with how it is."""

    async def create(self, spec: MachineSpec) -> MachineStatus:
        return replace(await super().create(spec), state=MachineState.requested)


async def test_a_silent_bot_whose_machine_a_probe_saw_started_is_told_as_that(tmp_path):
    agents = limits(start_timeout_seconds=20)
    async with deployment(tmp_path, agents=agents, provider=AnswersBeforeTheStart()) as running:
        session_id = (await running.start("/start?wait=none"))["sessionId"]

        async def started():
            await running.look(1)
            session = await running.dispatcher.store.session(session_id)
            assert session is not None
            return session.started_at

        await eventually(started, lambda at: at is not None)
        failed = await end_of(running, session_id, 21)
        assert failed["reason"] == "start_timeout"
        assert "its machine runs, but never reported" in failed["message"]
