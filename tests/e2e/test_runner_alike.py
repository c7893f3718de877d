"""Bots see here what they see on Pipecat's development runner: each runs on both, and reports what it found.

Of the kinds of things that Pipecat's published examples do at their import and in `bot()`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bot.client import client
from tests.patience import PATIENCE
from tests.ports import free_port

from .browser import run_beside_browser, until
from .dispatcher import NO_TLS, Dispatcher, agent

REPORT = """
import json, os, sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

def report(**facts):
    file = HERE / f"{Path(__file__).stem}.json"
    file.with_suffix(".new").write_text(json.dumps(facts))
    file.with_suffix(".new").rename(file)
"""

MAIN = """
if __name__ == "__main__":
    from pipecat.runner.run import main
    main()
"""

RUNNER_ARGUMENTS = """
from pipecat.runner.types import DailyRunnerArguments, RunnerArguments, SmallWebRTCRunnerArguments

async def bot(runner_args: RunnerArguments):
    match runner_args:
        case SmallWebRTCRunnerArguments():
            kind = "webrtc"
        case _:
            kind = "another"
    names = ("handle_sigint", "handle_sigterm", "pipeline_idle_timeout_secs", "body")
    facts = {name: getattr(runner_args, name) for name in names}
    report(kind=kind, daily=isinstance(runner_args, DailyRunnerArguments), **facts)
"""

TRANSPORT = """
from pipecat.frames.frames import EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.utils import (
    create_transport, get_transport_client_id, maybe_capture_participant_camera
)
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

params = {"webrtc": lambda: TransportParams(audio_in_enabled=True, video_in_enabled=True)}

async def bot(runner_args):
    transport = await create_transport(runner_args, params)
    idle = runner_args.pipeline_idle_timeout_secs
    worker = PipelineWorker(Pipeline([transport.input(), transport.output()]), idle_timeout_secs=idle)
    facts = {}

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        facts["same"] = get_transport_client_id(transport, client) == client.pc_id
        await maybe_capture_participant_camera(transport, client, framerate=1)
        await worker.queue_frames([EndFrame()])

    runner = WorkerRunner(handle_sigint=True, force_gc=True)
    await runner.add_workers(worker)
    await runner.run()
    report(**facts)
"""

MAIN_BLOCK_SETS = """
async def bot(runner_args):
    report(voice=SETTINGS["voice"])

if __name__ == "__main__":
    from pipecat.runner.run import main
    SETTINGS = {"voice": "calm"}
    main()
"""

MAIN_IN_A_FUNCTION = """
import argparse
from pipecat.runner import run

STATE = {}

async def bot(runner_args):
    report(state=STATE, mode=runner_args.cli_args.mode)

def start():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="slow")
    STATE["ready"] = True
    run.main(parser)

if __name__ == "__main__":
    start()
"""

NEIGHBOURS = """
import runner, server
from bot import run_bot
from bot.pipeline import PARTS
from prompts import PROMPT
from utils.tools import tool

sys.path.append(str(HERE / "lib"))
import deep

async def bot(runner_args):
    import late
    report(
        runner=runner.NAME, server=server.NAME, run=run_bot(), parts=PARTS, prompt=PROMPT, tool=tool(),
        deep=deep.NAME, late=late.NAME,
    )
"""

RELATIVE = """
from . import NAME
from .inner.tools import tool

async def bot(runner_args):
    from .inner import tools
    report(name=NAME, tool=tool(), same=tools.tool is tool, package=__package__)
"""

FILES = """
ASSET = open("assets/a.txt").read()

async def bot(runner_args):
    os.makedirs("recordings", exist_ok=True)
    Path("recordings/call.wav").write_text("sound")
    report(
        asset=ASSET, beside=(HERE / "assets" / "a.txt").read_text(), listed="assets" in os.listdir("."),
        found=[path.name for path in Path("assets").glob("*.txt")], argv=os.path.basename(sys.argv[0]),
        first=os.path.realpath(sys.path[0]) == str(HERE),
    )
"""

LOGS = """
import logging
from loguru import logger

logger.remove(0)
logger.add(sys.stderr, level="DEBUG")
logging.basicConfig(level=logging.INFO)
print("\\N{rocket} starting")

async def bot(runner_args):
    logger.remove()
    logger.add("bot.log", level="TRACE")
    logger.info("well said")
    report(logged="well said" in Path("bot.log").read_text(), encoding=sys.stdout.encoding)
"""

SIGNALS = """
import asyncio, signal

before = signal.signal(signal.SIGUSR1, lambda *_: None)

async def bot(runner_args):
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, heard.set)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(heard.wait(), 60)
    report(before=before == signal.SIG_DFL)
"""

PROCESSES = """
import asyncio, multiprocessing, shutil, subprocess
from concurrent.futures import ProcessPoolExecutor

def square(number):
    return number * number

async def bot(runner_args):
    child = subprocess.run([sys.executable, "child.py", "a b"], capture_output=True, text=True)
    code = "import pipecat, sys; print(sys.prefix)"
    piped = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=piped)
    said, _ = await process.communicate()
    squares = []
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            squares.append(await asyncio.get_running_loop().run_in_executor(pool, square, 7))
    found = shutil.which("python") is not None, shutil.which("a-tool") is not None
    report(child=child.stdout, same=said.decode().strip() == sys.prefix, squares=squares, found=found)
"""

LOOPS = """
import asyncio, threading

async def fetch():
    await asyncio.sleep(0)
    return "config"

CONFIG = asyncio.run(fetch())
queue, lock = asyncio.Queue(), asyncio.Lock()

async def bot(runner_args):
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: asyncio.run_coroutine_threadsafe(queue.put(5), loop).result(5)).start()
    async with lock:
        got = await queue.get()
    main = threading.current_thread() is threading.main_thread()
    report(config=CONFIG, got=got, main=main, loop=asyncio.get_event_loop() is loop)
"""

EARLY_ARGUMENTS = """
import argparse, atexit

parser = argparse.ArgumentParser()
parser.add_argument("--voice", default="calm")
known, _ = parser.parse_known_args()
atexit.register(lambda: print("over"))

class Agent:
    async def __call__(self, runner_args):
        report(voice=known.voice, kind=type(self).__name__)

bot = Agent()
"""

IN_A_PACKAGE = "package/relative"
KINDS = {
    "runner-arguments": RUNNER_ARGUMENTS,
    "transport": TRANSPORT,
    "main-block-sets": MAIN_BLOCK_SETS,
    "main-in-a-function": MAIN_IN_A_FUNCTION,
    "neighbours": NEIGHBOURS,
    IN_A_PACKAGE: RELATIVE,
    "files": FILES,
    "logs": LOGS,
    "signals": SIGNALS,
    "processes": PROCESSES,
    "loops": LOOPS,
    "early-arguments": EARLY_ARGUMENTS,
}
IN_TEMPLATES = ("processes", "signals", "main-in-a-function", "neighbours")
"""Kinds that meet the difference between a machine and a fork."""

BESIDE = {
    "assets/a.txt": "asset",
    "bot/__init__.py": "from .pipeline import PARTS\ndef run_bot(): return PARTS\n",
    "bot/pipeline.py": "from . import parts\nPARTS = parts.NAME\n",
    "bot/parts.py": "NAME = 'parts'\n",
    "child.py": "import sys, prompts\nprint('child', sys.argv[1:], prompts.PROMPT)\n",
    "late.py": "NAME = 'late'\n",
    "lib/deep.py": "NAME = 'deep'\n",
    "package/__init__.py": "NAME = 'package'\n",
    "package/inner/__init__.py": "",
    "package/inner/tools.py": "from .. import NAME\ndef tool(): return NAME\n",
    "prompts.py": "PROMPT = 'Be brief.'\n",
    "runner.py": "NAME = 'runner'\n",
    "server.py": "NAME = 'server'\n",
    "tools/a-tool": "#!/bin/sh\n",
    "utils/__init__.py": "",
    "utils/tools.py": "from . import more\ndef tool(): return more.NAME\n",
    "utils/more.py": "NAME = 'more'\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("project")
    for name, text in BESIDE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "tools" / "a-tool").chmod(0o755)
    for name, source in KINDS.items():
        block = "" if "__main__" in source else MAIN
        (root / f"{name}.py").write_text(REPORT + source + block)
    with pytest.MonkeyPatch.context() as patch:
        path = [str(root / "tools"), str(Path(sys.executable).parent), os.environ["PATH"]]
        patch.setenv("PATH", os.pathsep.join(path))
        yield root


@pytest.fixture(scope="module")
def running(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    agents = {name.replace("/", "-"): agent(project / f"{name}.py") for name in KINDS}
    dispatcher = Dispatcher(tmp_path_factory.mktemp("alike"), agents, forks=False)
    dispatcher.start()
    yield dispatcher
    dispatcher.stop()


@pytest.fixture(scope="module")
def forking(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """A dispatcher whose machines are forked from templates, where the system can."""
    agents = {name: agent(project / f"{name}.py") for name in IN_TEMPLATES}
    dispatcher = Dispatcher(tmp_path_factory.mktemp("forking"), agents)
    dispatcher.start()
    dispatcher.wait_for_templates(60)
    yield dispatcher
    dispatcher.stop()


def call(url: str, start: str, file: Path) -> dict[str, Any]:
    """Call a bot as a client of Pipecat's does; return its report."""
    file.unlink(missing_ok=True)

    async def connect() -> None:
        async with (
            client() as caller,
            httpx.AsyncClient(base_url=url, verify=NO_TLS, timeout=PATIENCE) as http,
        ):
            started = await http.post(start, json={"transport": "webrtc", "body": {"a": 1}})
            session = started.json()["sessionId"]
            answer = await http.post(f"/sessions/{session}/api/offer", json=await caller.offer())
            assert answer.status_code == 200, answer.text
            await caller.accept(answer.json())
            await asyncio.to_thread(until, file.exists, PATIENCE, f"the report {file.name}")

    run_beside_browser(connect())
    return json.loads(file.read_text())


def on_the_runner(project: Path, name: str) -> dict[str, Any]:
    """Run the bot as its author does: `python bot.py`, or `python -m package.bot`."""
    port, url = free_port(), "http://127.0.0.1"
    file = ["-m", name.replace("/", ".")] if name == IN_A_PACKAGE else [f"{name}.py"]
    log = project / "runner.log"
    with log.open("wb") as output:
        runner = subprocess.Popen(
            [sys.executable, *file, "--port", str(port)],
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def ready() -> bool:
        assert runner.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            return httpx.get(f"{url}:{port}/status", timeout=2, verify=NO_TLS).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready, PATIENCE, "a runner that takes calls")
        return call(f"{url}:{port}", "/start", project / f"{name}.json")
    finally:
        os.killpg(runner.pid, signal.SIGKILL)
        runner.wait()


@pytest.mark.parametrize("name", KINDS)
def test_bot_finds_here_what_it_finds_on_the_runner(running: Dispatcher, project: Path, name: str) -> None:
    here = call(running.url, f"/v1/public/{name.replace('/', '-')}/start", project / f"{name}.json")
    assert here
    assert here == on_the_runner(project, name)


@pytest.mark.parametrize("name", IN_TEMPLATES)
def test_forked_bot_finds_what_it_finds_on_the_runner(forking: Dispatcher, project: Path, name: str) -> None:
    here = call(forking.url, f"/v1/public/{name}/start", project / f"{name}.json")
    assert here == on_the_runner(project, name)
