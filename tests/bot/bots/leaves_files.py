"""Leaves a file for its client, where the development runner has such files."""

import asyncio
from pathlib import Path

from pipecat.runner.run import runner_downloads_folder


async def bot(runner_args):
    (Path(runner_downloads_folder() or "nowhere") / "report.txt").write_text("all is well")
    Path("left").touch()
    await asyncio.sleep(3600)
