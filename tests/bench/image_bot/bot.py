"""An ordinary voice bot, as Pipecat's quickstart has it, that writes down when it gets how far."""

import json
import os
import time
from pathlib import Path

MARKS = {"bot_file": time.time()}

from pipecat.audio.vad.silero import SileroVADAnalyzer  # noqa: E402
from pipecat.pipeline.pipeline import Pipeline  # noqa: E402
from pipecat.pipeline.worker import PipelineParams, PipelineWorker  # noqa: E402
from pipecat.processors.aggregators.llm_context import LLMContext  # noqa: E402
from pipecat.processors.aggregators.llm_response_universal import (  # noqa: E402
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments  # noqa: E402
from pipecat.runner.utils import create_transport  # noqa: E402
from pipecat.services.openai.llm import OpenAILLMService  # noqa: E402
from pipecat.services.openai.stt import OpenAISTTService  # noqa: E402
from pipecat.services.openai.tts import OpenAITTSService  # noqa: E402
from pipecat.transports.base_transport import TransportParams  # noqa: E402
from pipecat.workers.runner import WorkerRunner  # noqa: E402

MARKS["imported"] = time.time()


def process_began() -> float:
    """By the kernel's clock, in steps of 10 ms."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


async def bot(runner_args: RunnerArguments) -> None:
    MARKS["called"] = time.time()
    params = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}
    transport = await create_transport(runner_args, params)
    # None of them is called before somebody speaks.
    services = [service(api_key="none") for service in (OpenAISTTService, OpenAILLMService, OpenAITTSService)]
    stt, llm, tts = services
    user_params = LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    context = LLMContextAggregatorPair(LLMContext(), user_params=user_params)
    pipeline = [transport.input(), stt, context.user(), llm, tts, transport.output(), context.assistant()]
    worker = PipelineWorker(Pipeline(pipeline), params=PipelineParams(enable_metrics=True))

    @worker.event_handler("on_pipeline_started")
    async def started(_worker: PipelineWorker, _frame: object) -> None:
        MARKS.update(process=process_began(), pipeline=time.time(), cpu=time.process_time())
        print("MARKS", json.dumps(MARKS), flush=True)

    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
