"""A Daily bot but for Daily itself: what a transport's pipeline pushes when it is in its room."""

import asyncio
import json
from pathlib import Path

from pipecat.frames.frames import BotConnectedFrame, EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.runner.types import DailyRunnerArguments, RunnerArguments
from pipecat.workers.runner import WorkerRunner

LONGEST_SECONDS = 60


async def bot(runner_args: RunnerArguments):
    assert isinstance(runner_args, DailyRunnerArguments)
    body = runner_args.body or {}
    seen = {"room": runner_args.room_url, "token": runner_args.token, "body": body}
    worker = PipelineWorker(Pipeline([IdentityFilter()]))

    async def attend():
        await worker.queue_frame(BotConnectedFrame())
        Path(body["seen"]).write_text(json.dumps(seen))
        await asyncio.sleep(LONGEST_SECONDS)
        await worker.queue_frame(EndFrame())

    attending = asyncio.create_task(attend())
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    attending.cancel()
