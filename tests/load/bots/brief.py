"""Talks to its client for as many seconds as the start's body says, and goes; leaves a note of its birth."""

import asyncio
import os
from pathlib import Path

from pipecat import pipeline  # the stand-in's

machine_id = os.environ["SWITCHBOARD_MACHINE_ID"]
(Path(os.environ["LOAD_BIRTHS"]) / f"{machine_id}.{os.getpid()}").touch()


async def bot(runner_args):
    pipeline.start()  # pyright: ignore[reportAttributeAccessIssue]
    await asyncio.sleep(runner_args.body["seconds"])
