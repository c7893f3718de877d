"""Ignores that it is cancelled."""

import asyncio


async def bot(runner_args):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("not me", flush=True)
