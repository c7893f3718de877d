"""Bots of the kinds that Pipecat publishes run here as on its development runner.

Each is written anew after what the published examples do. They run as machines of a real dispatcher.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.bot.client import client
from tests.patience import PATIENCE

from .browser import run_beside_browser
from .dispatcher import NO_TLS, Dispatcher, agent

REPORT = """
import json
from pathlib import Path

def report(**facts):
    Path(__file__).with_suffix(".json").write_text(json.dumps(facts))
"""

FILES = """
import os
from dotenv import load_dotenv

load_dotenv(".env")

async def bot(runner_args):
    report(env=os.environ["ENV"], greeting=os.environ.get("GREETING"), prompt=open("prompt.txt").read())
"""

ARGUMENTS = """
import argparse

async def bot(runner_args):
    args = runner_args.cli_args
    report(input=args.input, volume=args.volume, host=args.host, esp32=args.esp32, verbose=args.verbose)

if __name__ == "__main__":
    from pipecat.runner.run import main

    parser = argparse.ArgumentParser(description="A bot with arguments")
    parser.add_argument("-i", "--input", required=True)
    parser.add_argument("--volume", type=int, default=3)
    main(parser)
    raise RuntimeError("nothing behind the runner's main is run")
"""

DEFAULTS = """
async def bot(runner_args):
    report(transport=runner_args.cli_args.transport, esp32=runner_args.cli_args.esp32)

if __name__ == "__main__":
    from pipecat.runner.run import main
    main()
"""

ROUTES = """
import asyncio
from fastapi import Request
from pipecat.runner.run import app, main

@app.get("/menu/{dish}")
async def menu(dish: str):
    return {"dish": dish}

@app.post("/orders/")
async def order(request: Request):
    return {"order": await request.json(), "here": str(request.url_for("order"))}

async def bot(runner_args):
    await asyncio.sleep(60)

if __name__ == "__main__":
    main()
"""

MODEL = """
import os, urllib.request

async def bot(runner_args):
    cached = Path(os.environ["HF_HOME"]) / "model.bin"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(urllib.request.urlopen(os.environ["MODEL_URL"]).read())
    names = ("XDG_CACHE_HOME", "TORCH_HOME", "NLTK_DATA")
    report(model=cached.read_text(), caches=[os.environ[name] for name in names])
"""

SEVERAL = """
from pipecat.frames.frames import EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

def daily():
    from pipecat.transports.daily.transport import DailyParams
    return DailyParams(audio_out_enabled=True)

transport_params = {
    "daily": daily,
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
}

async def bot(runner_args):
    transport = await create_transport(runner_args, transport_params)
    worker = PipelineWorker(Pipeline([transport.input(), transport.output()]))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        await worker.queue_frames([EndFrame()])  # it ends the call by itself

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()
    report(transport=type(transport).__name__)
"""

FUNCTIONS = """
from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import EndWorkerFrame, FunctionCallResultFrame, LLMContextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.utils import create_transport
from pipecat.services.llm_service import FunctionCallFromLLM, FunctionCallParams, LLMService
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

transport_params = {"webrtc": lambda: TransportParams(audio_out_enabled=True)}
schema = FunctionSchema("weather", "Tell the weather", {"place": {"type": "string"}}, ["place"])

class Model(LLMService):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            tools = [tool.name for tool in frame.context.tools.standard_tools]
            called = FunctionCallFromLLM(
                function_name=tools[0], tool_call_id="1", arguments={"place": "Oslo"}, context=frame.context
            )
            await self.run_function_calls([called])
        else:
            await self.push_frame(frame, direction)

class Listener(FrameProcessor):
    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, FunctionCallResultFrame):
            report(function=frame.function_name, result=frame.result)
            await self.push_frame(EndWorkerFrame(), FrameDirection.UPSTREAM)
        await self.push_frame(frame, direction)

async def weather(params: FunctionCallParams):
    await params.result_callback({"sky": "clear", "place": params.arguments["place"]})

async def bot(runner_args):
    transport = await create_transport(runner_args, transport_params)
    model = Model()
    model.register_function("weather", weather)
    worker = PipelineWorker(Pipeline([transport.input(), model, Listener(), transport.output()]))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        await worker.queue_frames([LLMContextFrame(LLMContext([], ToolsSchema([schema])))])

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()
"""

BOTS = {
    "files": FILES,
    "arguments": ARGUMENTS,
    "defaults": DEFAULTS,
    "routes": ROUTES,
    "model": MODEL,
    "several": SEVERAL,
    "functions": FUNCTIONS,
    "refused": ARGUMENTS,
    "lacks": "from pipecat.services.deepgram.stt import DeepgramSTTService\n",
}


class Models(http.server.ThreadingHTTPServer):
    """A model hub on the loopback, which counts what is downloaded."""

    downloads = 0


class _Model(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Models)
        self.server.downloads += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"weights")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    server = Models(("127.0.0.1", 0), _Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, models: Models) -> Iterator[Dispatcher]:
    project = tmp_path_factory.mktemp("project")
    (project / ".env").write_text("GREETING=hello\n")
    (project / "prompt.txt").write_text("Be brief.")
    agents: dict[str, dict[str, Any]] = {}
    for name, source in BOTS.items():
        (project / f"{name}.py").write_text(REPORT + source)
        agents[name] = agent(project / f"{name}.py")
    agents["arguments"]["arguments"] = ["-i", "voice.wav", "-v"]
    agents["model"]["env"] = ["MODEL_URL"]
    # A template for each of them would take longer than all their machines.
    dispatcher = Dispatcher(tmp_path_factory.mktemp("runner-bots"), agents, forks=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_URL", f"http://127.0.0.1:{models.server_port}/model.bin")
        dispatcher.start()
    yield dispatcher
    dispatcher.stop()


def start(running: Dispatcher, name: str) -> str:
    url = f"{running.url}/v1/public/{name}/start"
    return httpx.post(url, json={"transport": "webrtc"}, timeout=PATIENCE, verify=NO_TLS).json()["sessionId"]


def call(running: Dispatcher, name: str) -> dict[str, Any]:
    """Call the bot as a client does until it ends the call; return its report."""
    session = start(running, name)

    async def connect() -> None:
        async with client() as caller, httpx.AsyncClient(verify=NO_TLS, timeout=PATIENCE) as http_client:
            url = f"{running.url}/sessions/{session}/api/offer"
            answer = await http_client.post(url, json=await caller.offer())
            assert answer.status_code == 200, answer.text
            await caller.accept(answer.json())
            await asyncio.to_thread(running.wait_until_over, session)

    run_beside_browser(connect())
    record = running.session(session)
    file = Path(running.agents[name]["bot"]).with_suffix(".json")
    assert file.exists(), record
    return json.loads(file.read_text()) | {"state": record["state"]}


def failure(running: Dispatcher, name: str) -> dict[str, Any]:
    return running.wait_until_over(start(running, name))


def test_bot_gets_the_runners_env_and_finds_files_beside_it(running: Dispatcher) -> None:
    facts = call(running, "files")
    assert (facts["env"], facts["greeting"], facts["prompt"]) == ("local", "hello", "Be brief.")


def test_cli_args_come_from_the_bots_own_parser(running: Dispatcher) -> None:
    facts = call(running, "arguments")
    assert (facts["input"], facts["volume"], facts["host"]) == ("voice.wav", 3, "localhost")
    assert (facts["esp32"], facts["verbose"]) == (False, 1)


def test_cli_args_are_the_runners_defaults_without_a_parser(running: Dispatcher) -> None:
    facts = call(running, "defaults")
    assert (facts["transport"], facts["esp32"]) == (None, False)


def test_arguments_that_the_bot_refuses_are_named(running: Dispatcher) -> None:
    record = failure(running, "refused")
    assert record["reason"] == "invalid_bot"
    assert "arguments are refused: the following arguments are required: -i/--input" in record["message"]


def test_route_of_the_runners_app_is_reached_in_its_session(running: Dispatcher) -> None:
    session = start(running, "routes")

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(verify=NO_TLS, timeout=PATIENCE) as http_client:
            return await http_client.get(f"{running.url}/sessions/{session}/menu/soup")

    answer = run_beside_browser(ask())
    assert (answer.status_code, answer.json()) == (200, {"dish": "soup"})
    running.request("DELETE", f"/sessions/{session}")


@pytest.mark.parametrize("prefix", ["", "/v1/public/routes"])
def test_redirect_and_link_of_a_route_stay_in_its_session(running: Dispatcher, prefix: str) -> None:
    session = start(running, "routes")
    base = f"{running.url}{prefix}/sessions/{session}"
    with httpx.Client(verify=NO_TLS, timeout=PATIENCE, follow_redirects=True) as http_client:
        answer = http_client.post(f"{base}/orders", json={"n": 1})
    assert (answer.status_code, answer.json()) == (200, {"order": {"n": 1}, "here": f"{base}/orders/"})
    running.request("DELETE", f"/sessions/{session}")


def test_model_is_downloaded_once_for_all_sessions(running: Dispatcher, models: Models) -> None:
    first, second = call(running, "model"), call(running, "model")
    assert (first["model"], second["model"], models.downloads) == ("weights", "weights", 1)
    assert first["caches"] == second["caches"]


def test_bot_with_several_transports_ends_the_call_by_itself(running: Dispatcher) -> None:
    facts = call(running, "several")
    assert (facts["transport"], facts["state"]) == ("SmallWebRTCTransport", "ended")


def test_bot_with_function_calls_runs(running: Dispatcher) -> None:
    facts = call(running, "functions")
    assert (facts["function"], facts["result"]) == ("weather", {"sky": "clear", "place": "Oslo"})
    assert facts["state"] == "ended"


def test_missing_package_is_named_with_the_command(running: Dispatcher) -> None:
    record = failure(running, "lacks")
    assert record["reason"] == "invalid_bot"
    assert "`pipecat-ai[deepgram]`" in record["message"]
    assert "requirements.txt beside the bot file and run `make up` again" in record["message"]
