"""Raises in the middle of a call, when the file `fail` appears."""

import asyncio
from pathlib import Path


async def bot(runner_args):
    while not Path("fail").exists():
        await asyncio.sleep(0.02)
    raise RuntimeError("the line is cut")
