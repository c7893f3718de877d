"""An ordinary Daily bot: Pipecat's own transport, a pipeline, no handler that ends it.

Its start request says what stands in for daily-python (`stub`: its directory, `daily`: where the fake is
served).
"""

import json
import os
import sys
from pathlib import Path

from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import DailyRunnerArguments, RunnerArguments
from pipecat.workers.runner import WorkerRunner


async def bot(runner_args: RunnerArguments):
    assert isinstance(runner_args, DailyRunnerArguments)
    body = runner_args.body or {}
    seen = {"room": runner_args.room_url, "token": runner_args.token, "body": body}
    if "seen" in body:
        Path(body["seen"]).write_text(json.dumps(seen))
    if "stub" in body:
        os.environ["DAILY_STUB_URL"] = body["daily"]
        sys.path.insert(0, body["stub"])
    from pipecat.transports.daily.transport import DailyParams, DailyTransport

    params = DailyParams(audio_in_enabled=True, audio_out_enabled=True)
    transport = DailyTransport(runner_args.room_url, runner_args.token, "Guest", params)
    worker = PipelineWorker(Pipeline([transport.input(), transport.output()]), idle_timeout_secs=None)

    if body.get("proxy"):
        # Nothing of the test leaves this host.
        transport._client._client.set_proxy_url(body["proxy"])

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
