"""Greets with a tone, as a bot with a TTS service greets with speech; ends when its client goes."""

import math
import struct

from loguru import logger
from pipecat.frames.frames import TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

logger.remove(0)
logger.add(__import__("sys").stderr, level="DEBUG")

RATE = 24000


def tone(seconds: float) -> bytes:
    samples = (int(9000 * math.sin(2 * math.pi * 440 * i / RATE)) for i in range(int(RATE * seconds)))
    return b"".join(struct.pack("<h", sample) for sample in samples)


async def bot(runner_args: RunnerArguments):
    params = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}
    transport = await create_transport(runner_args, params)
    worker = PipelineWorker(Pipeline([transport.input(), transport.output()]))

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport, client):
        audio = TTSAudioRawFrame(audio=tone(0.3), sample_rate=RATE, num_channels=1)
        await worker.queue_frames([TTSStartedFrame(), audio, TTSStoppedFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    raise SystemExit("the main block must not run")
