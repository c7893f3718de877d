"""What becomes of sessions that nobody ends properly."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bot import protocol
from dispatcher.machines.placement import Placement
from dispatcher.machines.provider import Unreachable
from dispatcher.sessions import inquiries, reaper
from dispatcher.sessions.admission import Limits
from dispatcher.sessions.lifecycle import Machine, Session
from dispatcher.settings import AgentSettings
from dispatcher.store.due import Page
from tests.dispatcher.harness import Deployment, ScriptedMachine, deployment, eventually
from tests.dispatcher.rows import rows


async def end_of(running: Deployment, session_id: str, after: float) -> dict:
    """The session once so many seconds have passed and the reaper has looked."""
    running.clock.advance(after)
    # It may be in the midst of a round that began before, and would go to sleep on a clock that stands.
    running.dispatcher.reaper.nudge()
    return await running.until(session_id, "failed")


async def dies(running: Deployment, machine: ScriptedMachine) -> None:
    """Return once the machine is gone and the dispatcher has no channel of it any more."""
    running.provider.die(machine.id, 1, "")
    await machine.connection.close()
    last_heard = running.dispatcher.channels.last_heard
    await eventually(lambda: asyncio.sleep(0, last_heard(machine.id)), lambda heard: heard is None)


async def look_once(running: Deployment) -> None:
    """A look of the reaper, which must not wait for a provider."""
    async with asyncio.timeout(30):
        await running.dispatcher.reaper.tick()


def limits(**more) -> dict[str, AgentSettings]:
    return {"echo": AgentSettings(bot=Path("bot/agents/echo.py"), **more)}


@pytest.mark.parametrize(
    ("exit_code", "reason", "words"),
    [
        (1, "machine_exited", "exit status 1"),
        (137, "machine_killed", "signal 9 (SIGKILL). The system does that when memory runs out"),
        (139, "machine_killed", "signal 11 (SIGSEGV)"),
        (None, "machine_lost", "exit status is not known"),
    ],
)
def test_a_machine_that_dies_without_a_word_is_found_out(tmp_path, exit_code, reason, words):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            running.provider.die(machine.id, exit_code, "Fatal Python error")
            await machine.connection.close()
            failed = await running.until(session_id, "failed")
            assert (failed["reason"], failed["exitCode"]) == (reason, exit_code)
            assert words in failed["message"]
            assert failed["detail"] == "Fatal Python error"
            await running.dispatcher.background.settle()
            assert not (await running.dispatcher.store.live_machines()).ids

    asyncio.run(run())


def test_a_lost_channel_is_asked_about_however_lately_its_machine_was(tmp_path):
    async def run():
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

    asyncio.run(run())


def test_of_very_many_machines_each_look_searches_some(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path, agents=limits(client_timeout_seconds=2.0)) as running:
            active, waiting = [(await running.start())["sessionId"] for _ in range(2)]
            machine = await running.machine_of(active)
            await machine.hello("active")
            await running.in_phase(active, "active")
            await (await running.machine_of(waiting)).hello("waiting")
            await running.in_phase(waiting, "waiting")
            store, searched = running.dispatcher.store, []
            search, find, failed = store.live_machines, store.due_machines, []

            async def slowly(behind):
                running.clock.advance(2 * reaper.SEARCH_SHARE * reaper.TICK_SECONDS)
                page = await search(behind, limit=1)
                searched.append(tuple(page.started))
                return page

            async def fails_once(*arguments):
                if not failed:
                    failed.append(running.clock.now())
                    raise OperationalError("SELECT", {}, Exception("the server went away"))
                return await find(*arguments)

            monkeypatch.setattr(store, "live_machines", slowly)
            await running.dispatcher.reaper.tick()
            assert len(searched) == 1, "it takes so long that the next look goes on with it"
            monkeypatch.setattr(store, "due_machines", fails_once)
            running.provider.die(machine.id, 1, "")
            await machine.connection.close()
            await eventually(lambda: asyncio.sleep(0, failed), bool)
            # What is due or lost is found all the same, also by the look after one that failed.
            assert (await end_of(running, active, after=reaper.TICK_SECONDS))["reason"] == "machine_exited"
            assert (await end_of(running, waiting, after=2.0))["reason"] == "no_client"
            assert set(searched[:2]) == {(f"m-{active}",), (f"m-{waiting}",)}

    asyncio.run(run())


def test_a_placement_that_does_not_answer_keeps_no_deadline_waiting(tmp_path, monkeypatch):
    async def run():
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
                assert still > inquiries.AT_ONCE, "those whose answers did not come made way for others"

    asyncio.run(run())


def test_of_many_silent_machines_none_is_asked_about_twice_before_all_others_were(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=600, max_sessions=20)) as running:
            asked = Counter({f"m-{(await running.start())['sessionId']}": 0 for _ in range(20)})
            get = running.provider.get

            async def slowly(machine_id):
                asked[machine_id] += 1
                await running.clock.sleep(5.0)
                return await get(machine_id)

            with monkeypatch.context() as slow:
                slow.setattr(inquiries, "AT_ONCE", 2)
                slow.setattr(inquiries, "PAUSES", (0.5,))
                slow.setattr(running.provider, "get", slowly)
                while min(asked.values()) < 3:
                    running.clock.advance(0.5)
                    await look_once(running)
                    assert max(asked.values()) - min(asked.values()) <= 1

    asyncio.run(run())


def test_what_happens_while_a_machine_is_being_asked_about_makes_it_be_asked_about_again(
    tmp_path, monkeypatch
):
    async def run():
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

    asyncio.run(run())


def test_a_channel_that_breaks_again_while_the_reaper_looks_is_not_forgotten(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            store, looks = running.dispatcher.store, running.dispatcher.reaper
            find, broken = store.due_machines, []

            async def nothing(_behind):
                return Page((), (), (), None)

            async def breaks_again(*arguments):
                due = await find(*arguments)
                if not broken:
                    broken.append(machine.id)
                    await dies(running, machine)
                return due

            monkeypatch.setattr(store, "live_machines", nothing)
            monkeypatch.setattr(store, "due_machines", breaks_again)
            looks.lost(machine.id)
            await look_once(running)
            await look_once(running)
            assert broken
            assert (await running.until(session_id, "failed"))["reason"] == "machine_exited"

    asyncio.run(run())


def test_a_machine_that_cannot_be_asked_about_is_ended_all_the_same(tmp_path, monkeypatch):
    async def run():
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
                await running.look(inquiries.RELEASE_SECONDS)
                assert running.provider.stopped == [f"m-{session_id}"]

    asyncio.run(run())


def test_a_machine_is_missing_as_of_when_it_was_asked_about(tmp_path, monkeypatch):
    """Of one that started just now a provider may know nothing yet, however late it says so."""

    async def run():
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

    asyncio.run(run())


def test_a_lost_channel_alone_ends_nothing(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            await machine.connection.close()
            for _ in range(100):
                await running.look(1)
            assert (await running.session(session_id))["state"] == "active"
            assert running.provider.stopped == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (None, "never reported"),
        ("loading", "importing the bot file"),
        ("booting", "last report was 'booting'"),
    ],
)
def test_a_bot_that_is_never_ready_fails_at_the_start_timeout(tmp_path, phase, words):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
            session_id = (await running.start())["sessionId"]
            if phase:
                machine = await running.machine_of(session_id)
                await machine.hello(phase)
                await running.in_phase(session_id, phase)
            failed = await end_of(running, session_id, 11)
            assert failed["reason"] == "start_timeout"
            assert "within 10 s" in failed["message"]
            assert words in failed["message"]

    asyncio.run(run())


def test_a_pipeline_that_does_not_start_fails_the_session(tmp_path):
    async def run():
        async with deployment(tmp_path, agents=limits(client_timeout_seconds=20)) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("starting")
            await running.in_phase(session_id, "starting")
            failed = await end_of(running, session_id, 21)
            assert "pipeline did not start" in failed["message"]

    asyncio.run(run())


def test_a_client_that_never_comes_fails_the_session_and_frees_the_machine(tmp_path):
    async def run():
        async with deployment(tmp_path, agents=limits(client_timeout_seconds=20)) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("waiting")
            await running.in_phase(session_id, "waiting")
            failed = await end_of(running, session_id, 21)
            assert failed["reason"] == "no_client"
            assert isinstance(await machine.receive(), protocol.Stop)

    asyncio.run(run())


def test_a_client_that_came_while_the_reaper_looked_keeps_its_session(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path, agents=limits(client_timeout_seconds=2.0)) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("waiting")
            await running.in_phase(session_id, "waiting")
            find, found = running.dispatcher.store.due_machines, []

            async def and_then_a_client_comes(*arguments):
                due = await find(*arguments)
                if due and not found:
                    found.extend(due)
                    await machine.send(protocol.Ready(timings=protocol.Timings()))
                    await running.in_phase(session_id, "ready")
                return due

            monkeypatch.setattr(running.dispatcher.store, "due_machines", and_then_a_client_comes)
            running.clock.advance(2.1)
            await look_once(running)
            assert [(session.id, session.phase) for _, session in found] == [(session_id, "waiting")]
            assert (await running.session(session_id))["state"] == "ready"

    asyncio.run(run())


def test_a_session_that_outlives_its_time_is_ended(tmp_path):
    async def run():
        async with deployment(tmp_path, agents=limits(max_duration_seconds=100)) as running:
            session_id = (await running.start())["sessionId"]
            machine = await running.machine_of(session_id)
            await machine.hello("active")
            await running.in_phase(session_id, "active")
            running.clock.advance(110)
            await machine.send(protocol.Heartbeat(phase="active", rss_bytes=1, cpu_seconds=1))
            await running.dispatcher.reaper.tick()
            assert (await running.session(session_id))["state"] == "active", "the bot's own timer comes first"
            failed = await end_of(running, session_id, 10)
            assert failed["reason"] == "max_duration"
            assert "100 s" in failed["message"]

    asyncio.run(run())


def test_a_machine_that_stays_after_its_session_is_ended_again(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            running.provider.deaf = True
            await running.http.delete(f"/sessions/{session_id}")
            await running.dispatcher.reaper.tick()
            assert len((await running.dispatcher.store.live_machines()).ids) == 1
            running.provider.deaf = False

            async def live_machines():
                await running.look(1)
                return (await running.dispatcher.store.live_machines()).ids

            await eventually(live_machines, lambda found: not found)
            assert running.provider.running == []

    asyncio.run(run())


def test_a_row_whose_machine_was_never_created_is_closed(tmp_path):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
            # What a dispatcher leaves that dies between the row and the call.
            session, machine = left_by_a_start(running)
            assert await running.dispatcher.store.add(session, machine, ALLOWED, "tester")
            failed = await end_of(running, session.id, 11)
            assert failed["reason"] == "start_timeout"
            assert "its machine never started" in failed["message"]

            async def live_machines():
                await running.look(1)
                return (await running.dispatcher.store.live_machines()).ids

            await eventually(live_machines, lambda found: not found)

    asyncio.run(run())


def test_a_session_keeps_its_limits_when_its_agent_leaves_the_settings(tmp_path):
    other = {"other": AgentSettings(bot=Path("bot/agents/voice.py"))}

    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=500)) as running:
            body = {"text": "x" * protocol.MAX_ARGUMENT_BODY_BYTES}
            session_id = (await running.start(body=body))["sessionId"]
        async with deployment(tmp_path, agents=other, provider=running.provider) as restarted:
            machine = await restarted.connect(f"m-{session_id}")
            await machine.hello("idle")
            assign = await machine.receive()
            assert isinstance(assign, protocol.Assign)
            assert assign.assignment.body == body
            failed = await end_of(restarted, session_id, 501)
            assert "within 500 s" in failed["message"]

    asyncio.run(run())


def test_one_machine_that_cannot_be_looked_after_does_not_harm_the_others(tmp_path, monkeypatch):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
            odd, plain, dead = [(await running.start())["sessionId"] for _ in range(3)]
            store, releases = running.dispatcher.store, running.dispatcher.releases
            read, close = store.machine_with_session, releases.close_if

            async def read_or_raise(machine_id):
                if machine_id == f"m-{odd}":
                    raise ZeroDivisionError("a bug")
                return await read(machine_id)

            async def close_or_raise(session, *more):
                if session.id == odd:
                    raise ZeroDivisionError("a bug")
                await close(session, *more)

            monkeypatch.setattr(inquiries, "AT_ONCE", 1)
            monkeypatch.setattr(store, "machine_with_session", read_or_raise)
            monkeypatch.setattr(releases, "close_if", close_or_raise)
            running.provider.die(f"m-{dead}", 1, "")
            assert (await end_of(running, dead, 1))["reason"] == "machine_exited"
            assert (await end_of(running, plain, 11))["reason"] == "start_timeout"

    asyncio.run(run())


def test_the_machines_row_says_started_and_then_how_it_ended(tmp_path):
    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            store, machine_id = running.dispatcher.store, f"m-{session_id}"
            machine = await store.machine(machine_id)
            assert machine is not None
            assert machine.state == "started"
            await running.http.delete(f"/sessions/{session_id}")
            await running.dispatcher.background.settle()
            machine = await store.machine(machine_id)
            assert machine is not None
            assert (machine.state, machine.exit_code) == ("gone", 143)
            assert (await running.session(session_id))["exitCode"] == 143

    asyncio.run(run())


def test_a_machine_that_comes_after_its_session_was_closed_is_found_and_ended(tmp_path):
    async def run():
        async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
            # It was asked for, and nothing came of it yet when its session is stopped.
            session, machine = left_by_a_start(running)
            machine = replace(machine, launcher=running.dispatcher.replica)
            assert await running.dispatcher.store.add(session, machine, ALLOWED, "tester")
            await running.http.delete(f"/sessions/{session.id}")
            await running.dispatcher.background.settle()
            assert len((await running.dispatcher.store.live_machines()).ids) == 1, "it may still come"
            running.provider.appear(machine.id)

            async def running_machines():
                await running.look(1)
                return running.provider.running

            await eventually(running_machines, lambda found: not found)

    asyncio.run(run())


ALLOWED = Limits({"echo": 1}, {"echo": 0})


def left_by_a_start(running: Deployment) -> tuple[Session, Machine]:
    now = running.clock.now()
    session, machine = rows(at=now, provider="scripted", start_timeout_seconds=10)
    return session, replace(machine, placement="scripted", create_by=now + 9)
