"""A machine of the reserve: waits for a session, says that it serves it, and runs its bot once it may."""

from __future__ import annotations

import json

import pytest

from bot.arguments import UsageError, parse
from bot.protocol import (
    Assign,
    Assigned,
    Ended,
    Heartbeat,
    Hello,
    Ready,
    RoomOpen,
    Stop,
    entrypoint_arguments,
)
from tests.bot.dispatcher import Dispatcher, assignment, dispatcher, machine

SESSION = assignment("other", session_id="s-2", body={"a": 1})


def reserved(url: str, seconds: float = 600.0) -> list[str]:
    return entrypoint_arguments("m-1", url, None, seconds)


async def assigned(served: Dispatcher) -> Assigned:
    await served.wait_for(Heartbeat, lambda beat: beat.phase == "idle")
    await served.send(Assign(assignment=SESSION))
    return await served.wait_for(Assigned)


async def test_bot_runs_once_the_machine_may_and_times_count_from_the_assignment(tmp_path):
    async with (
        dispatcher(opens_rooms=False) as served,
        machine(tmp_path, "room.py", served.url, None, arguments=reserved(served.url)) as run,
    ):
        assert (await assigned(served)).session_id == "s-2"
        await served.send(RoomOpen())
        ready = await served.wait_for(Ready)
        assert ready.timings.loaded == 0
        assert ready.timings.ready is not None
        assert ready.timings.ready > 0
        await served.send(Stop(message="enough"))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0


async def test_bot_never_runs_when_the_session_went_to_another_machine(tmp_path):
    async with (
        dispatcher(opens_rooms=False) as served,
        machine(tmp_path, "spy.py", served.url, None, arguments=reserved(served.url)) as run,
    ):
        await assigned(served)
        await served.send(Stop(message="Another machine serves the session."))
        assert (await served.wait_for(Ended)).reason == "stopped"
        assert await run.exit_code() == 0
    assert not (tmp_path / "seen.json").exists()


async def test_bot_waits_for_the_word_of_a_dispatcher_that_was_restarted(tmp_path):
    """A session that is certainly the machine's goes on without a dispatcher after `Limits.room`."""
    async with dispatcher(opens_rooms=False) as served:
        arguments = reserved(served.url)
        limits = "room=0.05"
        async with machine(tmp_path, "spy.py", served.url, None, arguments=arguments, limits=limits) as run:
            await assigned(served)
            before = len(served.heard)
            await served.stop()
            await served.start()
            hello = await served.wait_for(Hello, after=before)
            assert (hello.session_id, hello.phase) == ("s-2", "idle")
            assert not (tmp_path / "seen.json").exists()
            await served.send(RoomOpen())
            await served.wait_for(Ended)
            assert await run.exit_code() == 0
    assert json.loads((tmp_path / "seen.json").read_text())["values"]["session_id"] == "'s-2'"


async def test_same_assignment_is_acknowledged_again_and_another_is_not(tmp_path):
    async with (
        dispatcher(opens_rooms=False) as served,
        machine(tmp_path, "room.py", served.url, None, arguments=reserved(served.url)),
    ):
        await assigned(served)
        before = len(served.heard)
        await served.send(Assign(assignment=assignment("daily", session_id="another")))
        await served.send(Assign(assignment=SESSION))
        assert (await served.wait_for(Assigned, after=before)).session_id == "s-2"
    assert {one.session_id for one in served.heard if isinstance(one, Assigned)} == {"s-2"}


async def test_machine_waits_no_longer_than_its_limit(tmp_path):
    async with dispatcher() as served:
        arguments = reserved(served.url, 0.5)
        async with machine(tmp_path, "spy.py", served.url, None, arguments=arguments) as run:
            ended = await served.wait_for(Ended)
            assert (ended.reason, ended.message) == ("stopped", "No session came within 0.5 s.")
            assert await run.exit_code() == 0


async def test_machine_ends_when_its_dispatcher_is_gone(tmp_path):
    async with dispatcher() as served:
        limits = "unreachable=0.5"
        arguments = reserved(served.url)
        async with machine(tmp_path, "spy.py", served.url, None, arguments=arguments, limits=limits) as run:
            await served.wait_for(Heartbeat, lambda beat: beat.phase == "idle")
            await served.stop()
            assert await run.exit_code() == 1
            assert "was not reachable for" in run.text()
            await served.start()


def test_max_wait_and_a_session_are_refused_together():
    arguments = entrypoint_arguments("m-1", "http://localhost:1", SESSION, 60.0)
    with pytest.raises(UsageError, match="--max-wait is not allowed with --session-id"):
        parse(arguments)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon"])
def test_max_wait_must_be_seconds(value):
    arguments = [*entrypoint_arguments("m-1", "http://localhost:1", None), "--max-wait", value]
    with pytest.raises(UsageError, match=r"--max-wait: .* must be a number of seconds over 0"):
        parse(arguments)
