"""Reads what its client has uploaded, as an LLM service does with the URL of a file in a message."""

import asyncio
from pathlib import Path


async def bot(runner_args):
    while not Path("url").exists():
        await asyncio.sleep(0.01)
    contents = await runner_args.file_storage.load(Path("url").read_text())
    Path("read.new").write_bytes(contents)
    Path("read.new").rename("read")
    await asyncio.sleep(3600)
