"""The greeter, and a note of the body it was started with; slow to import if there is a file `slow`."""

import json
import time
from pathlib import Path

import greeter

while Path("slow").exists():
    time.sleep(0.01)


async def bot(runner_args):
    Path("body.json").write_text(json.dumps(runner_args.body))
    await greeter.bot(runner_args)
