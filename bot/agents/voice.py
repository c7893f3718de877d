"""The voice bot: speech to text, a language model, text to speech, by any OpenAI-compatible endpoint.

    OPENAI_API_KEY=… python bot/agents/voice.py -t webrtc

| variable | |
|---|---|
| OPENAI_API_KEY | the key of all three services |
| OPENAI_BASE_URL | their endpoint, if it is not OpenAI's |
| STT_MODEL, LLM_MODEL, TTS_MODEL, TTS_VOICE | what they use; the defaults are OpenAI's |
| STT_BASE_URL and STT_API_KEY, the same with LLM and TTS | another endpoint for one of them, and its key |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipecat.frames.frames import ErrorFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import VALID_VOICES, OpenAITTSService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.utils.errors import classify_http_exception
from pipecat.workers.runner import WorkerRunner

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))  # a script's own directory is there, the checkout is not

from bot.vad import create_vad, preload_vad

GREETING = "Hello! How can I help you?"

INSTRUCTIONS = (
    "You are a friendly assistant on a telephone call. What you write is spoken aloud: answer in one or two "
    "short sentences, in plain words, without lists, symbols or emoji."
)

# A machine imports this file while its client connects, so slow work belongs here.
preload_vad()


class Misconfigured(Exception):
    """The environment lacks something or holds a value that cannot work; the message says what to set."""


@dataclass(frozen=True)
class Service:
    """Address, key and model of one of the three services."""

    api_key: str
    base_url: str | None
    model: str


@dataclass(frozen=True)
class Services:
    """Services of the bot, as the environment names them."""

    stt: Service
    llm: Service
    tts: Service
    voice: str

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Services:
        """Read the variables of this module's docstring.

        Raises:
            Misconfigured: a key is missing, or the voice is not one of OpenAI's.
        """
        voice = environment.get("TTS_VOICE") or "alloy"
        if voice not in VALID_VOICES:
            raise Misconfigured(f"TTS_VOICE is '{voice}'; allowed are {', '.join(sorted(VALID_VOICES))}.")
        return cls(
            stt=_service(environment, "STT", "gpt-transcribe"),
            llm=_service(environment, "LLM", "gpt-4.1"),
            tts=_service(environment, "TTS", "gpt-4o-mini-tts"),
            voice=voice,
        )


def _service(environment: Mapping[str, str], name: str, model: str) -> Service:
    # A key is sent only to the endpoint that it was given for.
    owner = name if environment.get(f"{name}_BASE_URL") else "OPENAI"
    key = environment.get(f"{owner}_API_KEY")
    if not key:
        purpose = f"for the endpoint in {name}_BASE_URL" if owner == name else "for STT, LLM and TTS"
        raise Misconfigured(f"The voice bot needs a key {purpose}: set {owner}_API_KEY.")
    base_url = environment.get(f"{owner}_BASE_URL") or None
    return Service(key, base_url, environment.get(f"{name}_MODEL") or model)


def create_worker(
    transport: BaseTransport, services: Services, idle_timeout_secs: float | None
) -> PipelineWorker:
    """Return the bot's pipeline. Smart Turn decides when the user is done; a user who speaks interrupts the
    bot."""
    stt = OpenAISTTService(
        api_key=services.stt.api_key,
        base_url=services.stt.base_url,
        settings=OpenAISTTService.Settings(model=services.stt.model),
    )
    llm = OpenAILLMService(
        api_key=services.llm.api_key,
        base_url=services.llm.base_url,
        settings=OpenAILLMService.Settings(model=services.llm.model, system_instruction=INSTRUCTIONS),
    )
    # Few endpoints but OpenAI's know the role "developer"; without it Pipecat says the same as "user".
    llm.supports_developer_role = services.llm.base_url is None
    tts = OpenAITTSService(
        api_key=services.tts.api_key,
        base_url=services.tts.base_url,
        settings=OpenAITTSService.Settings(model=services.tts.model, voice=services.voice),
    )
    context = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=create_vad())
    )
    return PipelineWorker(
        Pipeline([transport.input(), stt, context.user(), llm, tts, transport.output(), context.assistant()]),
        idle_timeout_secs=idle_timeout_secs,
    )


def _is_permanent(frame: ErrorFrame) -> bool:
    if frame.processor and not frame.processor.is_usable:
        return True
    # Not every service says what kind of error it met; most attach the endpoint's answer.
    return frame.exception is not None and classify_http_exception(frame.exception).is_permanent


def daily_params() -> TransportParams:
    from pipecat.transports.daily.transport import DailyParams  # only a bot in a Daily room has it installed

    return DailyParams(audio_in_enabled=True, audio_out_enabled=True)


TRANSPORTS = {
    "daily": daily_params,
    "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
}


async def bot(runner_args: RunnerArguments) -> None:
    """Serve one session; returns when the client is gone.

    Raises:
        Misconfigured: see `Services.read`.
        RuntimeError: a service can no longer do its job, as when it refuses the key.
    """
    services = Services.read(os.environ)
    transport = await create_transport(runner_args, TRANSPORTS)
    worker = create_worker(transport, services, runner_args.pipeline_idle_timeout_secs)
    failures: list[str] = []

    @transport.event_handler("on_client_connected")
    async def greet(_transport: BaseTransport, _client: object) -> None:
        await worker.queue_frames([TTSSpeakFrame(GREETING)])

    @transport.event_handler("on_client_disconnected")
    async def leave(_transport: BaseTransport, _client: object) -> None:
        await worker.cancel()

    @worker.event_handler("on_pipeline_error")
    async def give_up(_worker: PipelineWorker, frame: ErrorFrame) -> None:
        # A mute bot is worse than none. A transient error, such as a timeout, is only reported to the client.
        if _is_permanent(frame):
            failures.append(f"{frame.processor} cannot go on: {frame.error}")
            await worker.cancel()

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()
    if failures:
        raise RuntimeError(failures[0])


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
