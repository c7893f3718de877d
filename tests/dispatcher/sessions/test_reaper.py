"""What becomes of sessions that nobody ends properly."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from bot import protocol
from dispatcher.machines.placement import Placement
from dispatcher.sessions.admission import Limits
from dispatcher.sessions.lifecycle import Machine, Session
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.dispatcher.rows import rows


async def end_of(running: Deployment, session_id: str, after: float) -> dict:
    """The session once so many seconds have passed and the reaper has looked."""
    running.clock.advance(after)
    # It may be in the midst of a round that began before, and would go to sleep on a clock that stands.
    running.dispatcher.reaper.nudge()
    return await running.until(session_id, "failed")


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
            assert await running.dispatcher.store.live_machines() == []

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


def test_a_machine_is_missing_as_of_when_it_was_asked_about(tmp_path, monkeypatch):
    """Of one that started just now a provider may know nothing yet, however late it says so."""

    async def run():
        async with deployment(tmp_path) as running:
            session_id = (await running.start())["sessionId"]
            monkeypatch.setattr(Placement, "settling", 4.0)

            async def late(_machine_id):
                running.clock.advance(5.0)

            with monkeypatch.context() as slow:
                slow.setattr(running.provider, "get", late)
                running.clock.advance(0.5)
                await running.dispatcher.reaper.tick()
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
            assert len(await running.dispatcher.store.live_machines()) == 1
            running.provider.deaf = False

            async def live_machines():
                await running.look(1)
                return await running.dispatcher.store.live_machines()

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
                return await running.dispatcher.store.live_machines()

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
            odd = (await running.start())["sessionId"]
            plain = (await running.start())["sessionId"]
            get = running.provider.get

            async def get_or_raise(machine_id):
                if machine_id == f"m-{odd}":
                    raise ZeroDivisionError("a bug")
                return await get(machine_id)

            monkeypatch.setattr(running.provider, "get", get_or_raise)
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
            assert len(await running.dispatcher.store.live_machines()) == 1, "it may still come"
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
