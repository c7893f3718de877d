"""A bot as users of Pipecat's development runner write it; nothing in it knows of Switchboard.

Run it alone with `python parrot.py -t webrtc`. It chimes when somebody connects and says back what it hears.
"""

import array
import math

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.workers.runner import WorkerRunner

SAMPLE_RATE = 16000
CHIME_HERTZ = (523, 659, 784)
CHIME_SECONDS = 0.4

transport_params = {
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
}


def chime() -> bytes:
    samples = array.array("h")
    for hertz in CHIME_HERTZ:
        for index in range(int(SAMPLE_RATE * CHIME_SECONDS)):
            samples.append(int(9000 * math.sin(2 * math.pi * hertz * index / SAMPLE_RATE)))
    return samples.tobytes()


class Parrot(FrameProcessor):
    """Keeps what was said between two VAD frames, and says it back."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = bytearray()
        self._listening = False

    async def say(self, audio: bytes) -> None:
        await self.push_frame(TTSStartedFrame())
        await self.push_frame(TTSAudioRawFrame(audio=audio, sample_rate=SAMPLE_RATE, num_channels=1))
        await self.push_frame(TTSStoppedFrame())

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStartedSpeakingFrame):
            await self.broadcast_interruption()
            self._listening = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._listening = False
            await self.say(bytes(self._heard))
            self._heard.clear()
        elif isinstance(frame, InputAudioRawFrame):
            self._heard += frame.audio
            if not self._listening:
                # What comes before the VAD's verdict is the beginning of the first word.
                del self._heard[: -SAMPLE_RATE // 2 * 2]
        await self.push_frame(frame, direction)


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    parrot = Parrot()
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer(params=VADParams(stop_secs=0.8)))
    worker = PipelineWorker(
        Pipeline([transport.input(), vad, parrot, transport.output()]),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE, audio_out_sample_rate=SAMPLE_RATE),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport: BaseTransport, client: object) -> None:
        await parrot.say(chime())

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport: BaseTransport, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    transport = await create_transport(runner_args, transport_params)
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
