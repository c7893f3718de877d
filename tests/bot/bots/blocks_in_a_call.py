"""The bot of a room, which keeps its event loop once, for a second of the processor, when `block` appears."""

import asyncio
import time
from pathlib import Path

import room


async def bot(runner_args):
    async def block():
        while not Path("block").exists():
            await asyncio.sleep(0.02)
        until = time.process_time() + 1
        while time.process_time() < until:
            pass

    blocking = asyncio.create_task(block())
    await room.bot(runner_args)
    blocking.cancel()
