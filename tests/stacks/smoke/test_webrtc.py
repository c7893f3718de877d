"""The caller of `make smoke`, against a real dispatcher whose machines run real bots."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stacks.errors import SmokeError
from stacks.smoke import webrtc
from stacks.smoke.run import Joined, run
from stacks.smoke.webrtc import Limits
from tests.e2e.browser import until
from tests.e2e.dispatcher import CHECKOUT, Dispatcher, agent
from tests.patience import PATIENCE

SILENT = """\
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner


def params():
    return TransportParams(audio_in_enabled=True, audio_out_enabled=True)


async def bot(runner_args):
    transport = await create_transport(runner_args, {"webrtc": params})
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(PipelineWorker(Pipeline([transport.input(), transport.output()])))
    await runner.run()
"""

HANGS = """\
import time

time.sleep(600)
"""


@pytest.fixture
def dispatcher(tmp_path: Path) -> Iterator[Dispatcher]:
    silent, hangs = tmp_path / "silent.py", tmp_path / "hangs.py"
    silent.write_text(SILENT)
    hangs.write_text(HANGS)
    agents = {
        "echo": agent(CHECKOUT / "bot" / "agents" / "echo.py"),
        "silent": agent(silent),
        "hangs": agent(hangs, startTimeoutSeconds=8),
    }
    running = Dispatcher(tmp_path, agents)
    running.start()
    yield running
    running.stop()


def smoke(
    dispatcher: Dispatcher, name: str, out: Callable[[str], None], limits: Limits = webrtc.LIMITS
) -> Joined:
    calls = {"webrtc": functools.partial(webrtc.call, limits=limits)}
    return run(dispatcher.url, "", name, out, calls=calls)


def test_call_hears_the_echo_bot_and_tells_each_step(dispatcher: Dispatcher) -> None:
    lines: list[str] = []
    joined = smoke(dispatcher, "echo", lines.append)
    assert joined.checked == "a caller heard the bot"
    steps = [line.partition(" after ")[0].strip() for line in lines]
    assert steps == [
        f"session {joined.session} of echo: the start was answered",
        "the bot answered the caller's offer",
        "the media connection stands",
        "the bot says that it is ready",
        "the bot's first sound arrived",
    ]
    # The dispatcher saw a client as well, and what the bot sent to it.
    record = dispatcher.session(joined.session)
    # The caller hangs up, which ends the echo bot, and then ends the session: either may come first.
    assert (record["state"], record["reason"]) in {("ended", "stopped"), ("ended", "completed")}
    events = [
        event["event"]
        for event in dispatcher.request("GET", f"/v1/sessions/{joined.session}/events")["events"]
    ]
    assert "client-connected" in events


def test_call_fails_and_ends_its_session_when_the_bot_is_silent(dispatcher: Dispatcher) -> None:
    lines: list[str] = []
    with pytest.raises(
        SmokeError, match=r"^the bot is ready and its caller spoke, but no sound came from the bot"
    ):
        smoke(dispatcher, "silent", lines.append, Limits(sound=3))
    assert lines[-1].strip().startswith("the bot says that it is ready after ")
    session = lines[0].split()[1]
    assert dispatcher.wait_until_over(session)["reason"] == "stopped"


def test_call_fails_when_nobody_answers_its_offer(dispatcher: Dispatcher) -> None:
    lines: list[str] = []

    def stop_machine(line: str) -> None:
        lines.append(line)
        session = line.split()[1]
        until(lambda: bool(dispatcher.session(session)["startedAt"]), PATIENCE, "a machine that runs")
        dispatcher.bot(session).suspend()

    with pytest.raises(SmokeError, match=r"^the bot did not answer the offer: 502 |: start_timeout: "):
        smoke(dispatcher, "hangs", stop_machine)
    assert len(lines) == 1


def test_call_fails_with_the_reason_when_the_bot_hangs_at_its_import(dispatcher: Dispatcher) -> None:
    lines: list[str] = []
    with pytest.raises(SmokeError, match=r"^the bot did not answer the offer: 502 .*importing the bot file"):
        smoke(dispatcher, "hangs", lines.append)
    assert len(lines) == 1


def test_call_fails_with_the_reason_when_its_machine_dies(dispatcher: Dispatcher) -> None:
    lines: list[str] = []

    def kill_once_ready(line: str) -> None:
        lines.append(line)
        if "says that it is ready" in line:
            dispatcher.bot(lines[0].split()[1]).kill()

    with pytest.raises(SmokeError, match=r"over in the midst of the call: machine_killed: "):
        smoke(dispatcher, "silent", kill_once_ready)
