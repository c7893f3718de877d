"""Written for Pipecat Cloud's base image: `bot.py` in the working directory, neighbours, requirements."""

from pathlib import Path

from fastapi import Request
from loguru import logger
from phrases import GREETING
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner
from pipecatcloud_system import app  # pyright: ignore[reportMissingImports]
from tabulate import tabulate  # pyright: ignore[reportMissingModuleSource] - of its requirements.txt


@app.post("/table")
async def table(request: Request):
    return {"table": tabulate(await request.json()), "directory": str(Path.cwd())}


async def bot(runner_args: RunnerArguments):
    logger.info(GREETING)
    params = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}
    transport = await create_transport(runner_args, params)
    listening = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    worker = PipelineWorker(Pipeline([transport.input(), listening, transport.output()]))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()
