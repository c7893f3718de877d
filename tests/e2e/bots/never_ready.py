"""A bot that takes its client and then never starts a pipeline."""

import asyncio


async def bot(runner_args: object) -> None:
    await asyncio.Event().wait()
