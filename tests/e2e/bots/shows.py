"""A bot that has much to show, on cue: words of both sides, a picture, metrics, and lines in its log.

It sends what Pipecat's services send (STT, TTS with word timestamps, video, metrics), without any of them. A
file in its own directory with the name of a cue makes it do that once; the bot takes the file away.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
from loguru import logger
from pipecat.frames.frames import (
    AggregatedTextFrame,
    AggregatedTextProgressFrame,
    Frame,
    InterimTranscriptionFrame,
    MetricsFrame,
    OutputImageRawFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.metrics.metrics import (
    LLMTokenUsage,
    LLMUsageMetricsData,
    ProcessingMetricsData,
    TTFBMetricsData,
    TTSUsageMetricsData,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.utils.text.base_text_aggregator import TextType
from pipecat.utils.time import time_now_iso8601
from pipecat.workers.runner import WorkerRunner

CUES = Path(__file__).resolve().parent
LOOK_SECONDS = 0.05
SIZE = (320, 180)
FRAMES_PER_SECOND = 8
SAMPLE_RATE = 16_000
SENTENCE = ("Your table is booked", "for eight o'clock.")
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><b>bold</b> \u202etxet\u202c \x1b[31mred\x1b[0m \x07bell"
)

transport_params = {
    "webrtc": lambda: TransportParams(
        audio_in_enabled=True,
        audio_out_enabled=True,
        video_out_enabled=True,
        video_out_is_live=True,
        video_out_width=SIZE[0],
        video_out_height=SIZE[1],
        video_out_framerate=FRAMES_PER_SECOND,
    ),
}


class Show(FrameProcessor):
    """Pushes what a cue asks for."""

    def __init__(self) -> None:
        super().__init__()
        self._film: asyncio.Task[None] | None = None
        self.acts: dict[str, Callable[[], Awaitable[None]]] = {
            "interim": lambda: self._heard("I would like a tab", final=False),
            "final": lambda: self._heard("I would like a table for two.", final=True),
            "hostile": self._hostile,
            "says": self._says,
            "video": self._video,
            "metrics": self._measures,
            "flood": self._flood,
            "prints": self._prints,
        }

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)

    async def watch(self) -> None:
        while True:
            for name, act in self.acts.items():
                cue = CUES / name
                if cue.exists():
                    cue.unlink()
                    with logger.catch():
                        await act()
            await asyncio.sleep(LOOK_SECONDS)

    async def _heard(self, text: str, *, final: bool) -> None:
        kind = TranscriptionFrame if final else InterimTranscriptionFrame
        await self.push_frame(kind(text, "user", time_now_iso8601()))

    async def _hostile(self) -> None:
        await self._heard(HOSTILE, final=True)
        print(HOSTILE, flush=True)
        print("y" * 60_000, flush=True)

    async def _says(self) -> None:
        """As a TTS service with word timestamps does; here it takes two words."""
        first, second = SENTENCE
        text = " ".join(SENTENCE)
        segment = AggregatedTextFrame(text, TextType.SENTENCE)
        segment.will_be_spoken = True
        await self.push_frame(TTSStartedFrame())
        await self.push_frame(segment)
        for said, left in ((first, second), (text, "")):
            await self.push_frame(TTSAudioRawFrame(tone(0.5), SAMPLE_RATE, 1))
            await self.push_frame(
                AggregatedTextProgressFrame(segment.id, None, text, TextType.SENTENCE, said, left)
            )
            if left:
                await wait_for("spoken")
        await self.push_frame(TTSStoppedFrame())

    async def _video(self) -> None:
        self._film = asyncio.create_task(self._show())

    async def _show(self) -> None:
        width, height = SIZE
        number = 0
        while True:
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, :, 1] = np.linspace(40, 160, width, dtype=np.uint8)
            picture[:, :, 2] = 120
            left = number * 8 % width
            picture[60:120, left : left + 40] = (240, 200, 90)
            await self.push_frame(OutputImageRawFrame(picture.tobytes(), SIZE, "RGB"))
            number += 1
            await asyncio.sleep(1 / FRAMES_PER_SECOND)

    async def _measures(self) -> None:
        usage = LLMTokenUsage(prompt_tokens=1200, completion_tokens=34, total_tokens=1234)
        await self.push_frame(
            MetricsFrame(
                data=[
                    TTFBMetricsData(processor="DeepgramSTTService#0", value=0.0),
                    TTFBMetricsData(processor="OpenAILLMService#0", value=0.412),
                    ProcessingMetricsData(processor="OpenAILLMService#0", value=0.9),
                    LLMUsageMetricsData(processor="OpenAILLMService#0", value=usage),
                    TTSUsageMetricsData(processor="CartesiaTTSService#0", value=38),
                ]
            )
        )

    async def _flood(self) -> None:
        for number in range(300):
            await self._heard(f"Turn {number} " + "and on " * 700, final=True)

    async def _prints(self) -> None:
        for number in range(2_500):
            print(f"line {number}")
        sys.stdout.flush()


def tone(seconds: float) -> bytes:
    moments = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (8000 * np.sin(2 * np.pi * 220 * moments)).astype("<i2").tobytes()


async def wait_for(cue: str) -> None:
    while not (CUES / cue).exists():
        await asyncio.sleep(LOOK_SECONDS)
    (CUES / cue).unlink()


async def bot(runner_args: RunnerArguments) -> None:
    transport = await create_transport(runner_args, transport_params)
    show = Show()
    worker = PipelineWorker(
        Pipeline([transport.input(), show, transport.output()]),
        idle_timeout_secs=runner_args.pipeline_idle_timeout_secs,
    )
    watching: list[asyncio.Task[None]] = []

    @transport.event_handler("on_client_connected")
    async def begin(_transport: BaseTransport, _client: object) -> None:
        logger.debug("a line at debug")
        logger.warning("a line of warning")
        watching.append(asyncio.create_task(show.watch()))

    @transport.event_handler("on_client_disconnected")
    async def leave(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()
