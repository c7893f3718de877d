"""The file that the runtime names in `PIPECAT_SETUP_FILES`: Pipecat calls it for every runner and worker.

Pipecat imports it by its path. The bot's subprocesses inherit the variable and not the runtime, so nothing
is done where `bot.watch` has not been imported.
"""

import sys


async def setup_worker_runner(runner):
    if (watch := sys.modules.get("bot.watch")) is not None:
        watch.attach_runner(runner)


async def setup_pipeline_worker(worker):
    if (watch := sys.modules.get("bot.watch")) is not None:
        watch.attach_worker(worker)
