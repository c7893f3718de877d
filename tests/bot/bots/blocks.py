"""Blocks its event loop for good, and says so first."""

import time


async def bot(runner_args):
    print("blocking now", flush=True)
    time.sleep(3600)
