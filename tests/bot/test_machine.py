"""Machines as processes: how they load a bot, how they end, and what they say of it."""

import asyncio
import base64
import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from bot.protocol import (
    PROTOCOL_VERSION,
    Assign,
    ClientConnected,
    Ended,
    Heartbeat,
    Hello,
    Ready,
    Request,
    Response,
    RoomOpen,
    Stop,
    entrypoint_arguments,
)
from tests.bot.dispatcher import BOTS, CHECKOUT, TOKEN, assignment, dispatcher, machine
from tests.patience import PATIENCE

DAILY = assignment("daily", room_url="https://x.daily.co/r", token="room-token", body={"a": [1, "ü"]})
"""A session that needs no client's offer."""


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def ending(directory: Path, bot_file: str, assigned=DAILY, **options) -> tuple[Ended, int, str]:
    """Run a machine to its end: its last word, its exit status, and its output."""

    async def scenario():
        async with (
            dispatcher() as served,
            machine(directory, bot_file, served.url, assigned, **options) as run,
        ):
            ended = await served.wait_for(Ended)
            return ended, await run.exit_code(), run.text()

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("source", "sentence", "detail"),
    [
        ("x = 1\n", "has no function `bot`", ""),
        ("bot = 5\n", "is a int", ""),
        ("def bot(runner_args): pass\n", "is not async", ""),
        ("async def bot(): pass\n", "cannot take one argument", ""),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError: No module named 'nowhere", "line 1"),
        ("def f():\n    1 / 0\nf()\n", "ZeroDivisionError: division by zero.", "1 / 0"),
        ("async def bot(:\n", "SyntaxError", "async def bot(:"),
        ("import sys; sys.exit('KEY is not set')\n", "sys.exit('KEY is not set')", ""),
        (None, "does not exist", ""),
    ],
)
def test_a_file_that_is_no_bot_is_said_to_be_none(tmp_path, source, sentence, detail):
    file = tmp_path / "some_bot.py"
    if source is not None:
        file.write_text(source)

    ended, code, _ = ending(tmp_path / "machine", str(file))

    assert (ended.reason, ended.exit_code, code) == ("invalid_bot", 1, 0)
    assert "some_bot.py" in ended.message
    assert sentence in ended.message
    assert detail in ended.detail
    assert "importlib" not in ended.detail
    assert "loader.py" not in ended.detail


def test_a_bot_that_raises_ends_with_its_error(tmp_path):
    ended, code, output = ending(tmp_path, "raises.py")

    assert (ended.reason, ended.exit_code, code) == ("bot_error", 1, 0)
    assert ended.message == "The bot raised KeyError: 'KEY_THAT_NOBODY_SET'."
    assert ended.detail.startswith("Traceback")
    assert 'os.environ["KEY_THAT_NOBODY_SET"]' in ended.detail
    assert "session.py" not in ended.detail
    assert "about to look up the key" in output
    assert "KEY_THAT_NOBODY_SET" in output


def test_a_bot_that_returns_without_a_pipeline_was_never_ready(tmp_path):
    ended, code, _ = ending(tmp_path, "returns.py")

    assert (ended.reason, ended.exit_code, code) == ("never_ready", 1, 0)
    assert ended.message == "The bot returned before its pipeline had started."
    assert ended.detail == "the speech service refused the key\n"


@pytest.mark.parametrize(("argument", "reason"), [("'no key'", "bot_error"), ("0", "never_ready")])
@pytest.mark.parametrize("where", ["bot", "task"])
def test_a_bot_may_leave_through_sys_exit(tmp_path, argument, reason, where):
    file = tmp_path / "exits.py"
    file.write_text(
        "import asyncio, sys\n"
        f"async def leave(): sys.exit({argument})\n"
        "async def bot(runner_args):\n"
        + (
            "    await leave()\n"
            if where == "bot"
            else "    await asyncio.gather(leave(), asyncio.sleep(60))\n"
        )
    )

    ended, code, _ = ending(tmp_path / "machine", str(file))

    assert (ended.reason, code) == (reason, 0)
    assert "no key" in ended.message or reason == "never_ready"


def test_a_bot_sees_what_it_would_see_under_python_bot_py(tmp_path):
    ended, _, _ = ending(tmp_path, "spy.py")
    assert ended.reason == "never_ready", ended
    seen = json.loads((tmp_path / "seen.json").read_text())

    assert seen["type"] == "pipecat.runner.types.DailyRunnerArguments"
    values = seen["values"]
    assert values["room_url"] == repr(DAILY.room_url)
    assert values["token"] == repr(DAILY.token)
    assert values["session_id"] == repr(DAILY.session_id)
    assert values["body"] == repr(DAILY.body)
    assert values["handle_sigint"] == "False"
    assert seen["argv"] == [str(BOTS / "spy.py")]
    assert seen["path"] == str(BOTS)
    assert seen["module"] == "spy"
    assert seen["same_loop"]
    # Importing the development runner would load .env over the environment.
    assert "pipecat.runner.run" not in seen["modules"]
    assert seen["environment"]["ENV"] == "local", "as in the runner"
    assert "fastapi" not in seen["modules"]
    assert TOKEN not in seen["inherited"]
    assert TOKEN not in json.dumps(seen["environment"])
    assert "SWITCHBOARD_BOT_FILE" in seen["inherited"]


def test_a_file_called_bot_py_and_its_neighbours_find_each_other(tmp_path):
    ended, _, _ = ending(tmp_path, "named/bot.py")

    assert ended.reason == "never_ready", ended
    assert (tmp_path / "greeting").read_text() == "hello from the user's bot.py"


async def test_neither_threads_nor_hooks_of_a_bot_keep_the_machine(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "tidy.py", served.url, DAILY) as run:
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "starting")
        await served.send(Stop(message="The caller has hung up."))
        ended = await served.wait_for(Ended)
        assert (ended.reason, ended.exit_code) == ("stopped", 0)
        assert ended.message == "The caller has hung up."
        assert await run.exit_code() == 0
    assert (tmp_path / "goodbye").exists()
    assert (tmp_path / "hook-ran").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_bot_as_stop_does(tmp_path, number):
    async with dispatcher() as served, machine(tmp_path, "tidy.py", served.url, DAILY) as run:
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "starting")
        os.kill(run.process.pid, number)
        ended = await served.wait_for(Ended)
        assert ended.reason == "machine_stopped"
        assert number.name in ended.message
        assert await run.exit_code() == 0
    assert (tmp_path / "goodbye").exists()


OF_STOPS = {"stop": "stopped", "signal": "machine_stopped", "deadline": "max_duration"}


@pytest.mark.parametrize("how", OF_STOPS)
@pytest.mark.parametrize("bot_file", ["stubborn.py", "blocks.py", "hangs_at_import.py"])
async def test_a_bot_that_cannot_be_stopped_is_ended(tmp_path, bot_file, how):
    limits = "grace=0.3, acknowledge=5, exit_hooks=0.2"
    assigned = assignment("daily", max_duration_seconds=1.5 if how == "deadline" else 60)
    reached = "loading" if bot_file == "hangs_at_import.py" else "starting"

    async with (
        dispatcher(heartbeat_seconds=0.1) as served,
        machine(tmp_path, bot_file, served.url, assigned, limits=limits) as run,
    ):
        # Heartbeats go on, whatever the bot does to its thread.
        await served.wait_for(Heartbeat, lambda beat: beat.phase == reached)
        await served.wait_for(Heartbeat, after=len(served.heard))
        if how == "stop":
            await served.send(Stop(message="enough"))
        elif how == "signal":
            os.kill(run.process.pid, signal.SIGTERM)
        ended = await served.wait_for(Ended)
        assert ended.reason == OF_STOPS[how]
        if how == "deadline":
            assert ended.message == "The session reached its maximum duration of 1.5 s."
        if bot_file != "hangs_at_import.py":
            assert ended.detail == "The bot did not stop within 0.3 s."
        assert await run.exit_code() == 0


async def test_a_bot_that_blocks_its_event_loop_in_a_call_has_no_heartbeats(tmp_path):
    async with (
        dispatcher(heartbeat_seconds=0.05) as served,
        machine(tmp_path, "blocks_in_a_call.py", served.url, DAILY),
    ):
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "active")
        before = len(served.heard)
        (tmp_path / "block").touch()
        start = (await served.wait_for(Heartbeat, after=before)).cpu_seconds
        await served.wait_for(Heartbeat, lambda beat: beat.cpu_seconds > start + 0.9)
        (tmp_path / "leave").touch()
        assert (await served.wait_for(Ended)).reason == "completed"
        beats = [beat.cpu_seconds for beat in served.heard[before:] if isinstance(beat, Heartbeat)]
        assert max(later - earlier for earlier, later in pairwise(beats)) > 0.7


async def test_a_bot_that_holds_pythons_lock_is_ended_by_its_deadline(tmp_path):
    limits = "grace=0.2, acknowledge=0.2, exit_hooks=0.2, last_resort=0.2"
    assigned = assignment("daily", max_duration_seconds=1.5)

    async with (
        dispatcher() as served,
        machine(tmp_path, "holds_the_lock.py", served.url, assigned, limits=limits) as run,
    ):
        await until(lambda: "holding" in run.text())
        assert await run.exit_code() == 1
        # All threads' tracebacks are in the log.
        assert "Timeout (0:00:02.3" in run.text()
        assert "holds_the_lock.py" in run.text()


def test_a_pipeline_that_breaks_is_no_completed_session(tmp_path):
    ended, code, _ = ending(tmp_path, "breaks.py")

    assert (ended.reason, ended.exit_code, code) == ("bot_error", 1, 0)
    assert ended.message == "The bot's pipeline failed: the speech service hung up."
    assert "the speech service hung up" in ended.detail


def test_a_bot_whose_lifespan_fails_ends_with_its_error(tmp_path):
    file = tmp_path / "lifespan.py"
    file.write_text(
        "from contextlib import asynccontextmanager\n"
        "from pipecatcloud_system import add_lifespan_to_app\n"
        "@asynccontextmanager\n"
        "async def fails(app):\n"
        "    raise OSError('no such pool')\n"
        "    yield\n"
        "add_lifespan_to_app(fails)\n"
        "async def bot(runner_args): pass\n"
    )

    ended, code, _ = ending(tmp_path / "machine", str(file))

    assert (ended.reason, code) == ("bot_error", 0)
    assert "OSError: no such pool" in ended.message
    assert "raise OSError('no such pool')" in ended.detail


async def test_a_pipeline_in_a_room_is_ready_once_it_is_there_and_then_has_its_client(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "room.py", served.url, DAILY) as run:
        connected = await served.wait_for(ClientConnected)
        kinds = [message.type for message in served.heard if not isinstance(message, Heartbeat)]
        assert kinds == ["hello", "ready", "client-connected"]
        timings = connected.timings
        marks = [timings.imported, timings.loaded, timings.pipeline]
        assert None not in marks
        assert marks == sorted(marks, key=lambda mark: mark or 0.0)
        assert timings.connected is not None
        assert timings.client is not None
        assert timings.offer is None
        (tmp_path / "leave").touch()
        ended = await served.wait_for(Ended)
        assert (ended.reason, ended.exit_code, ended.detail) == ("completed", 0, "")
        assert await run.exit_code() == 0


READY_TO_RUN = """
import runpy
bot = runpy.run_path("{room}")["bot"]
open("imported", "w").close()
"""


@pytest.mark.parametrize("how", ["is opened", "cannot be told of"])
async def test_a_bot_joins_its_room_only_when_that_is_there_or_nobody_can_say(tmp_path, how):
    bot_file = tmp_path / "late.py"
    bot_file.write_text(READY_TO_RUN.format(room=BOTS / "room.py"))

    async with (
        dispatcher(opens_rooms=False, heartbeat_seconds=0.05) as served,
        machine(tmp_path, bot_file, served.url, DAILY, limits="room=0.2, grace=1") as run,
    ):
        await until((tmp_path / "imported").exists)
        # It says at once when it runs the bot.
        count = len(served.heard)
        await until(lambda: len(served.heard) > count + 10)
        assert {message.phase for message in served.heard if isinstance(message, Heartbeat)} <= EARLY
        assert not (tmp_path / "joined").exists()
        if how == "is opened":
            await served.send(RoomOpen())
        else:
            await served.stop()
            await until((tmp_path / "joined").exists)
            await served.start()
        await served.wait_for(ClientConnected)
        (tmp_path / "leave").touch()
        assert (await served.wait_for(Ended)).reason == "completed"
        assert await run.exit_code() == 0


EARLY = {"booting", "loading"}


async def test_stop_ends_a_pipeline_in_pipecats_way(tmp_path):
    environment = {"SWITCHBOARD_LOG_LEVEL": "debug"}
    async with (
        dispatcher() as served,
        machine(tmp_path, "room.py", served.url, DAILY, environment=environment) as run,
    ):
        timings = (await served.wait_for(Ready)).timings
        assert (timings.ready or 0) >= (timings.pipeline or 0) > 0
        await served.send(Stop(message="enough"))
        assert (await served.wait_for(Ended)).reason == "stopped"
        assert await run.exit_code() == 0
        assert "CancelFrame" in run.text()
        assert "Pipeline worker PipelineWorker#0 has finished" in run.text()


async def test_a_dispatcher_that_dies_in_a_call_is_told_everything_when_it_is_back(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "room.py", served.url, DAILY) as run:
        await served.wait_for(ClientConnected)
        await served.stop()
        before = len(served.heard)
        assert run.process.returncode is None
        await served.start()
        hello = await served.wait_for(Hello, after=before)
        assert hello.phase == "active"
        assert hello.session_id == DAILY.session_id
        assert hello.timings.pipeline is not None
        assert set(hello.versions) == {"python", "pipecat"}
        await served.stop()
        (tmp_path / "leave").touch()
        await until(lambda: "ended (completed)" in run.text())
        before = len(served.heard)
        await served.start()
        ended = await served.wait_for(Ended, after=before)
        assert ended.reason == "completed"
        assert await run.exit_code() == 0


async def test_the_last_word_is_repeated_until_it_is_acknowledged(tmp_path):
    async with (
        dispatcher(acknowledges=False) as served,
        machine(tmp_path, "raises.py", served.url, DAILY) as run,
    ):
        first = await served.wait_for(Ended)
        before = len(served.heard)
        served.acknowledges = True
        await served.close_connection(1011)
        assert await served.wait_for(Ended, after=before) == first
        assert await run.exit_code() == 0


@pytest.mark.parametrize(("bot_file", "code"), [("raises.py", 1), ("tidy.py", 0)])
async def test_a_machine_that_cannot_report_ends_after_a_while(tmp_path, bot_file, code):
    limits = "acknowledge=0.3, exit_hooks=0.2"
    async with (
        dispatcher(acknowledges=False) as served,
        machine(tmp_path, bot_file, served.url, DAILY, limits=limits) as run,
    ):
        await served.wait_for(Hello)
        if bot_file == "tidy.py":
            await served.wait_for(Heartbeat, lambda beat: beat.phase == "starting")
            await served.send(Stop(message="enough"))
        assert await run.exit_code() == code


async def test_a_machine_without_a_session_imports_ahead_and_waits_for_one(tmp_path):
    body = {"text": "x" * 1_000_000}
    assigned = assignment("other", session_id="s-2", body=body)

    async with dispatcher() as served, machine(tmp_path, "spy.py", served.url, None) as run:
        hello = await served.wait_for(Hello)
        assert hello.session_id is None
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "idle")
        assert not (tmp_path / "seen.json").exists()
        await served.send(Assign(assignment=assigned))
        await served.wait_for(Ended)
        assert await run.exit_code() == 0
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["type"] == "pipecat.runner.types.RunnerArguments"
    assert seen["values"]["body"] == repr(body)
    assert seen["values"]["session_id"] == "'s-2'"
    assert "pipecat.pipeline.worker" in seen["modules"]
    assert "pipecat.runner.run" not in seen["modules"]


@pytest.mark.parametrize("apart", [-1, 1])
async def test_a_dispatcher_one_version_apart_is_served(tmp_path, apart):
    version = PROTOCOL_VERSION + apart
    arguments = entrypoint_arguments("m-1", "{url}", DAILY)
    arguments[arguments.index("--protocol") + 1] = str(version)
    if apart > 0:
        arguments += ["--colour", "red"]

    async with dispatcher(protocol=version) as served:
        given = [argument.replace("{url}", served.url) for argument in arguments]
        async with machine(tmp_path, "room.py", served.url, None, arguments=given) as run:
            assert (await served.wait_for(Hello)).protocol == PROTOCOL_VERSION
            await served.wait_for(ClientConnected)
            if apart > 0:
                await served.send_text('{"type": "mood", "mood": "good"}')
                await served.send_text('{"type": "stop", "message": "enough", "mood": "good"}')
            else:
                await served.send(Stop(message="enough"))
            assert (await served.wait_for(Ended)).reason == "stopped"
            assert await run.exit_code() == 0


@pytest.mark.parametrize(("transport", "reason"), [("daily", "completed"), ("webrtc", "invalid_bot")])
async def test_a_machine_that_lacks_smallwebrtc_waits_for_a_session_too(tmp_path, transport, reason):
    (tmp_path / "aiortc.py").write_text("raise ImportError('not in this image')\n")
    path = os.pathsep.join([str(tmp_path), str(CHECKOUT)])

    async with (
        dispatcher() as served,
        machine(tmp_path, "room.py", served.url, None, environment={"PYTHONPATH": path}) as run,
    ):
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "idle")
        (tmp_path / "leave").touch()
        await served.send(Assign(assignment=assignment(transport)))
        ended = await served.wait_for(Ended)
        code = await run.exit_code()
    assert (ended.reason, code) == (reason, 0)
    assert reason == "completed" or "webrtc needs pipecat-ai[webrtc]" in ended.message


async def test_a_machine_serves_one_session_and_no_second(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "room.py", served.url, DAILY):
        await served.wait_for(Ready)
        await served.send(Assign(assignment=assignment("daily", session_id="another")))
        await served.send(Assign(assignment=DAILY))
        await served.close_connection(1011)
        before = len(served.heard)
        assert (await served.wait_for(Hello, after=before)).session_id == DAILY.session_id
        assert not any(isinstance(message, Ended) for message in served.heard)


async def test_a_refused_token_ends_the_machine_with_a_clear_line(tmp_path):
    async with dispatcher() as served:
        served.refuses = True
        async with machine(tmp_path, "tidy.py", served.url, DAILY) as run:
            assert await run.exit_code() == 1
            assert f"the dispatcher at ws://{served.url[7:]}" in run.text()
            assert "refused this machine (HTTP 403)" in run.text()


async def test_a_machine_that_finds_no_dispatcher_and_has_nothing_to_do_ends(tmp_path):
    async with dispatcher() as gone:
        url = gone.url
    async with machine(tmp_path, "tidy.py", url, assignment(), limits="unreachable=0.5") as run:
        assert await run.exit_code() == 1
        assert f"the dispatcher at {url} was not reachable" in run.text()


async def test_a_bot_in_a_room_needs_no_dispatcher(tmp_path):
    async with dispatcher() as gone:
        url = gone.url
    # Longer than Pipecat takes to be imported, and over before the last attempt that is waited for.
    limits = "unreachable=2.5, room=0.5, acknowledge=0.3, grace=1"
    async with machine(tmp_path, "room.py", url, DAILY, limits=limits) as run:
        await until(lambda: "no connection to" in run.text())
        await until((tmp_path / "joined").exists)
        attempts = run.text().count("no connection to")
        await until(lambda: run.text().count("no connection to") > attempts + 1)
        (tmp_path / "leave").touch()
        assert await run.exit_code() == 0
        assert "ended (completed)" in run.text()


async def test_the_bots_own_routes_are_reached_over_the_channel(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "routes.py", served.url, DAILY) as run:
        await served.wait_for(Hello)
        # Asked before the bot runs: the answer waits for it.
        answer = await served.call(
            "PUT",
            "echo/hi you",
            {"n": 1},
            query="a=b&c=%C3%BC",
            headers=(("Content-Type", "application/json"),),
        )
        assert answer == (
            200,
            {"word": "hi you", "query": {"a": "b", "c": "ü"}, "body": {"n": 1}, "started": ["lifespan"]},
        )
        status, problem = await served.call("GET", "broken")
        assert (status, problem["code"]) == (500, "route-failed")
        assert "broken" in problem["info"]
        status, problem = await served.call("GET", "huge")
        assert (status, problem["code"]) == (502, "answer-too-large")
        status, problem = await served.call("GET", "no/such")
        assert (status, problem) == (404, {"detail": "Not Found"})
        assert "the drawer is empty" in run.text()
        for response in (message for message in served.heard if isinstance(message, Response)):
            assert dict(response.headers)["content-type"].startswith("application/")


async def test_streaming_answers_are_whole_and_bounded(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "routes.py", served.url, DAILY):
        await served.wait_for(Hello)
        story = await served.ask("GET", "story")
        assert (story.status, base64.b64decode(story.body)) == (200, b"once upon a time")
        status, problem = await served.call("GET", "endless")
        assert (status, problem["code"]) == (502, "answer-too-large")
        assert "allowed are 3142656" in problem["detail"]
        # The stream has ended with its answer.
        assert await served.call("GET", "streamed") == await served.call("GET", "streamed")


async def test_redirects_and_links_of_routes_lead_into_the_session(tmp_path):
    base = "https://calls.example.com/v1/public/echo/sessions/1"

    async with dispatcher() as served, machine(tmp_path, "routes.py", served.url, DAILY):
        await served.wait_for(Hello)
        redirect = await served.ask("GET", "links", base=base)
        assert (redirect.status, dict(redirect.headers)["location"]) == (307, f"{base}/links/")
        assert await served.call("GET", "links/", base=base) == (200, {"mine": f"{base}/links/"})


async def test_websocket_routes_are_named_in_a_warning(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "routes.py", served.url, DAILY) as run:
        await served.wait_for(Hello)
        await served.call("GET", "streamed")
        assert run.text().count("WebSocket routes cannot be reached: /deep/inside, /ears.") == 1


async def test_request_runs_once_when_it_is_sent_again_after_a_reconnect(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "routes.py", served.url, DAILY):
        first = await served.wait_for(Hello)
        request = Request(id="the-same", method="POST", path="count")
        await served.send(request)
        answer = await served.wait_for(Response)
        before = len(served.heard)
        await served.close_connection(1011)
        second = await served.wait_for(Hello, after=before)
        assert second.opened_at > first.opened_at > 0
        await served.send(request)
        assert await served.wait_for(Response, after=before) == answer
        assert await served.call("POST", "count") == (200, {"count": 2})


async def test_calls_that_still_wait_when_the_session_ends_are_left_to_the_dispatcher(tmp_path):
    """It answers them from the session's record, as those that come later: one end, one answer."""

    async with (
        dispatcher() as served,
        machine(tmp_path, "hangs_at_import.py", served.url, DAILY) as run,
    ):
        await served.wait_for(Hello)
        await served.send(Request(id="waits", method="GET", path="anything"))
        await served.wait_for(Heartbeat, lambda beat: beat.phase == "loading")
        await served.send(Stop(message="enough"))
        await served.send(Request(id="late", method="GET", path="anything"))
        assert (await served.wait_for(Ended)).reason == "stopped"
        assert await run.exit_code() == 0
        assert not any(isinstance(message, Response) for message in served.heard)


def test_an_old_pipecat_is_refused_by_name(tmp_path):
    """Only its metadata is old: of 1.0 itself a machine never imports anything."""
    info = tmp_path / "site" / "pipecat_ai-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipecat-ai\nVersion: 1.0.0\n")
    path = {"PYTHONPATH": f"{info.parent}:{CHECKOUT}"}
    ended, _, _ = ending(tmp_path, "tidy.py", environment=path)
    assert ended.reason == "invalid_bot"
    assert "Pipecat 1.0.0 is not supported: versions 1.7 to 1.14 are." in ended.message


def test_newer_pipecat_than_tested_runs_with_a_warning_in_its_log(tmp_path):
    """Its metadata alone is newer."""
    info = tmp_path / "site" / "pipecat_ai-1.99.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pipecat-ai\nVersion: 1.99.0\n")
    path = {"PYTHONPATH": f"{info.parent}:{CHECKOUT}"}
    ended, _, output = ending(tmp_path, "returns.py", environment=path)
    assert ended.reason != "invalid_bot"
    assert output.count("Pipecat 1.99.0 is newer than the versions tested here, 1.7 to 1.14.") == 1


async def test_a_bot_without_routes_has_none(tmp_path):
    async with dispatcher() as served, machine(tmp_path, "tidy.py", served.url, DAILY):
        await served.wait_for(Hello)
        status, problem = await served.call("GET", "anything")
        assert (status, problem["code"], problem["status"]) == (404, "no-such-route", 404)
        assert "'anything'" in problem["detail"]


async def test_heartbeats_come_as_often_as_the_dispatcher_wants(tmp_path):
    async with (
        dispatcher(heartbeat_seconds=0.05) as served,
        machine(tmp_path, "tidy.py", served.url, DAILY),
    ):
        for _ in range(5):
            beat = await served.wait_for(Heartbeat, after=len(served.heard))
            assert beat.rss_bytes > 10_000_000
            assert 0 < beat.cpu_seconds < 60
