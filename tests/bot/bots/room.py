"""A bot in a room: its pipeline starts, then it joins; it ends when the file `leave` appears."""

import asyncio
from pathlib import Path

from pipecat.frames.frames import BotConnectedFrame, ClientConnectedFrame, EndFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from pipecat.workers.runner import WorkerRunner


async def bot(runner_args):
    worker = PipelineWorker(Pipeline([IdentityFilter()]))

    async def join():
        await worker.queue_frames([ClientConnectedFrame(), BotConnectedFrame()])
        Path("joined").touch()
        while not Path("leave").exists():
            await asyncio.sleep(0.02)
        await worker.queue_frame(EndFrame())

    joining = asyncio.create_task(join())
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    joining.cancel()
