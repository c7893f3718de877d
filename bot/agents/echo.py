"""The echo bot: it greets, listens, and says back what was said. It needs no key and no network.

An ordinary Pipecat bot file. It also runs under Pipecat's development runner:

    python bot/agents/echo.py -t webrtc
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_processor import UserTurnProcessor
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))  # a script's own directory is there, the checkout is not

from bot.vad import create_vad, preload_vad

SAMPLE_RATE = 16_000
"""Hz, in and out, so that nothing is resampled on the way; Silero hears 8 or 16 kHz."""

PAUSE_SECONDS = 0.4
"""The longest pause in the user's speech: 0.2 s until the detector notices, then this long until the bot
answers."""

PRE_ROLL_SECONDS = 1.0
"""Audio kept from before the detector fires: it fires 0.4 s into a loud voice, 0.6 s into a quiet one."""

QUIET = 0.02
"""Share of the loudest sample below which the beginning is cut off, except for `LEAD_IN_SECONDS`."""

LEAD_IN_SECONDS = 0.1

POST_ROLL_SECONDS = 0.15
"""Kept after the last sound that the detector took for speech: the end of a word is often quiet."""

LONGEST_SECONDS = 60.0
"""Limit on one turn: of a longer one, the last minute is said back."""


def bytes_of(seconds: float) -> int:
    """Return the number of bytes that `seconds` of 16-bit mono audio take."""
    return round(seconds * SAMPLE_RATE) * 2


def read_greeting() -> bytes:
    with wave.open(str(Path(__file__).with_name("greeting.wav"))) as file:
        return file.readframes(file.getnframes())


# A machine imports this file while its client connects, so slow work belongs here.
GREETING = read_greeting()
preload_vad()


def speech(audio: bytes) -> list[Frame]:
    """Yield `audio` as a text-to-speech service sends it; an interruption drops what has not been played."""
    return [TTSStartedFrame(), TTSAudioRawFrame(audio, SAMPLE_RATE, 1), TTSStoppedFrame()]


class Echo(FrameProcessor):
    """Records the user while they speak, and says it back when their turn is over."""

    def __init__(self) -> None:
        super().__init__()
        self._heard = bytearray()
        self._silence = 0  # bytes at the end of _heard that came after the last word
        self._speaking = False

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            self._record(frame.audio)
            return  # nobody downstream listens
        await self.push_frame(frame, direction)
        if isinstance(frame, UserStartedSpeakingFrame):
            self._speaking = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._silence = bytes_of(frame.stop_secs)
        elif isinstance(frame, UserStoppedSpeakingFrame):
            self._speaking = False
            for part in speech(self._take_utterance()):
                await self.push_frame(part)

    def _record(self, audio: bytes) -> None:
        self._heard += audio
        self._silence += len(audio)
        longest = LONGEST_SECONDS if self._speaking else PRE_ROLL_SECONDS
        del self._heard[: -bytes_of(longest)]

    def _take_utterance(self) -> bytes:
        trailing = max(0, self._silence - bytes_of(POST_ROLL_SECONDS))
        end = len(self._heard) - trailing
        samples = np.frombuffer(bytes(self._heard[:end]), np.int16)
        del self._heard[:end]
        level = np.abs(samples.astype(np.float32))
        begin = int(np.argmax(level > QUIET * level.max())) - round(LEAD_IN_SECONDS * SAMPLE_RATE)
        return samples[max(0, begin) :].tobytes()


def create_worker(transport: BaseTransport, idle_timeout_secs: float | None) -> PipelineWorker:
    """Return the bot's pipeline; its worker adds the RTVI events that tell a page who speaks."""
    turn_end = SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=PAUSE_SECONDS, wait_for_transcript=False)
    turns = UserTurnStrategies(start=[VADUserTurnStartStrategy()], stop=[turn_end])
    return PipelineWorker(
        Pipeline(
            [
                transport.input(),
                VADProcessor(vad_analyzer=create_vad()),
                UserTurnProcessor(user_turn_strategies=turns),
                Echo(),
                transport.output(),
            ]
        ),
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE, audio_out_sample_rate=SAMPLE_RATE),
        idle_timeout_secs=idle_timeout_secs,
    )


def daily_params() -> TransportParams:
    from pipecat.transports.daily.transport import DailyParams  # only a bot in a Daily room has it installed

    return DailyParams(audio_in_enabled=True, audio_out_enabled=True)


TRANSPORTS = {
    "daily": daily_params,
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
}


async def bot(runner_args: RunnerArguments) -> None:
    """Serve one session; returns when the client is gone."""
    transport = await create_transport(runner_args, TRANSPORTS)
    worker = create_worker(transport, runner_args.pipeline_idle_timeout_secs)

    @transport.event_handler("on_client_connected")
    async def greet(_transport: BaseTransport, _client: object) -> None:
        await worker.queue_frames(speech(GREETING))

    @transport.event_handler("on_client_disconnected")
    async def leave(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
