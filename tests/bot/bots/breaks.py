"""Its pipeline ends itself for an error, and the bot function returns as if nothing were the matter."""

from pipecat.frames.frames import ErrorFrame, Frame, TextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.workers.runner import WorkerRunner


class Breaks(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection):
        await super().process_frame(frame, direction)
        if isinstance(frame, TextFrame):
            await self.push_frame(
                ErrorFrame("the speech service hung up", fatal=True), FrameDirection.UPSTREAM
            )
        await self.push_frame(frame, direction)


async def bot(runner_args):
    worker = PipelineWorker(Pipeline([Breaks()]))
    await worker.queue_frame(TextFrame("hello"))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
