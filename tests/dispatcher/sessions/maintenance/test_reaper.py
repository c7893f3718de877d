"""Sessions that nobody ends properly."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bot import protocol
from dispatcher.domain.admission import Limits
from dispatcher.domain.model import Machine, Session
from dispatcher.sessions.maintenance import probes, reaper
from dispatcher.settings import AgentSettings
from tests.dispatcher.harness import Deployment, deployment, eventually
from tests.dispatcher.rows import rows
from tests.dispatcher.sessions.looks import end_of, limits, look_once


@pytest.mark.parametrize(
    ("exit_code", "reason", "words"),
    [
        (1, "machine_exited", "exit status 1"),
        (137, "machine_killed", "signal 9 (SIGKILL). The system does that when memory runs out"),
        (139, "machine_killed", "signal 11 (SIGSEGV)"),
        (None, "machine_lost", "exit status is not known"),
    ],
)
async def test_a_machine_that_dies_without_a_word_is_found_out(tmp_path, exit_code, reason, words):
    async with deployment(tmp_path) as running:
        session_id, machine = await running.reported("active")
        running.provider.die(machine.id, exit_code, "Fatal Python error")
        await machine.connection.close()
        failed = await running.until(session_id, "failed")
        assert (failed["reason"], failed["exitCode"]) == (reason, exit_code)
        assert words in failed["message"]
        assert failed["detail"] == "Fatal Python error"
        await running.dispatcher.background.settle()
        assert not (await running.dispatcher.store.live_machines()).ids


async def test_a_machine_that_used_all_of_its_memory_is_told_as_that(tmp_path):
    async with deployment(tmp_path) as running:
        session_id, machine = await running.reported("active")
        running.provider.die(machine.id, 137)
        running.provider.gone[machine.id] = replace(running.provider.gone[machine.id], out_of_memory_mb=512)
        await machine.connection.close()
        failed = await running.until(session_id, "failed")
        assert (failed["reason"], failed["exitCode"]) == ("out_of_memory", 137)
        assert "512 MiB" in failed["message"]


async def test_of_very_many_machines_each_look_searches_some(tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (None, "never reported"),
        ("loading", "importing the bot file"),
        ("booting", "last report was 'booting'"),
    ],
)
async def test_a_bot_that_is_never_ready_fails_at_the_start_timeout(tmp_path, phase, words):
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


@pytest.mark.parametrize(
    ("phase", "reason", "words"),
    [
        ("starting", "start_timeout", "pipeline did not start"),
        ("waiting", "no_client", "No client connected within 20 s"),
    ],
)
async def test_a_bot_without_its_pipeline_or_its_client_in_time_fails_and_ends(
    tmp_path, phase, reason, words
):
    async with deployment(tmp_path, agents=limits(client_timeout_seconds=20)) as running:
        session_id, machine = await running.reported(phase)
        failed = await end_of(running, session_id, 21)
        assert failed["reason"] == reason
        assert words in failed["message"]
        assert isinstance(await machine.receive(), protocol.Stop)


async def test_a_client_that_came_while_the_reaper_looked_keeps_its_session(tmp_path, monkeypatch):
    async with deployment(tmp_path, agents=limits(client_timeout_seconds=2.0)) as running:
        session_id, machine = await running.reported("waiting")
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


async def test_a_session_that_outlives_its_time_is_ended(tmp_path):
    async with deployment(tmp_path, agents=limits(max_duration_seconds=100)) as running:
        session_id, machine = await running.reported("active")
        running.clock.advance(110)
        await machine.send(protocol.Heartbeat(phase="active", rss_bytes=1, cpu_seconds=1))
        await running.dispatcher.reaper.tick()
        assert (await running.session(session_id))["state"] == "active", "the bot's own timer comes first"
        failed = await end_of(running, session_id, 10)
        assert failed["reason"] == "max_duration"
        assert "100 s" in failed["message"]


async def test_a_machine_that_stays_after_its_session_is_ended_again(tmp_path):
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


async def test_a_row_whose_machine_was_never_created_is_closed(tmp_path):
    async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
        # What a dispatcher leaves that dies between the row and the call.
        session, machine = left_by_a_start(running)
        assert await running.dispatcher.store.writes.add(session, machine, machine, ALLOWED, "tester")
        failed = await end_of(running, session.id, 11)
        assert failed["reason"] == "start_timeout"
        assert "its machine never started" in failed["message"]

        async def live_machines():
            await running.look(1)
            return (await running.dispatcher.store.live_machines()).ids

        await eventually(live_machines, lambda found: not found)


async def test_a_session_keeps_its_limits_when_its_agent_leaves_the_settings(tmp_path):
    other = {"other": AgentSettings(bot=Path("bot/agents/voice.py"))}

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


async def test_one_machine_that_cannot_be_looked_after_does_not_harm_the_others(tmp_path, monkeypatch):
    async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
        odd, plain, dead = [(await running.start())["sessionId"] for _ in range(3)]
        store, terminator = running.dispatcher.store, running.dispatcher.terminator
        read, close = store.machine_with_session, terminator.close_if

        async def read_or_raise(machine_id):
            if machine_id == f"m-{odd}":
                raise ZeroDivisionError("a bug")
            return await read(machine_id)

        async def close_or_raise(session, *more):
            if session.id == odd:
                raise ZeroDivisionError("a bug")
            await close(session, *more)

        monkeypatch.setattr(probes, "AT_ONCE", 1)
        monkeypatch.setattr(store, "machine_with_session", read_or_raise)
        monkeypatch.setattr(terminator, "close_if", close_or_raise)
        running.provider.die(f"m-{dead}", 1, "")
        assert (await end_of(running, dead, 1))["reason"] == "machine_exited"
        assert (await end_of(running, plain, 11))["reason"] == "start_timeout"


async def test_the_machines_row_says_started_and_then_how_it_ended(tmp_path):
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


async def test_a_machine_that_comes_after_its_session_was_closed_is_found_and_ended(tmp_path):
    async with deployment(tmp_path, agents=limits(start_timeout_seconds=10)) as running:
        # It was asked for, and nothing came of it yet when its session is stopped.
        session, machine = left_by_a_start(running)
        machine = replace(machine, launcher=running.dispatcher.replica)
        assert await running.dispatcher.store.writes.add(session, machine, machine, ALLOWED, "tester")
        await running.http.delete(f"/sessions/{session.id}")
        await running.dispatcher.background.settle()
        assert len((await running.dispatcher.store.live_machines()).ids) == 1, "it may still come"
        running.provider.appear(machine.id)

        async def running_machines():
            await running.look(1)
            return running.provider.running

        await eventually(running_machines, lambda found: not found)


ALLOWED = Limits({"echo": 1}, {"echo": 0})


def left_by_a_start(running: Deployment) -> tuple[Session, Machine]:
    now = running.clock.now()
    session, machine = rows(at=now, provider="scripted", start_timeout_seconds=10)
    return session, replace(machine, placement="scripted", create_by=now + 9)
