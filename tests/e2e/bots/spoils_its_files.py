"""A bot that puts a FIFO and endless files in the place of its machine's files."""

import asyncio
import os
from pathlib import Path

directory = Path(os.environ["SWITCHBOARD_MACHINE_DIR"])
for name in ("pid", "output.log"):
    (directory / name).unlink()
    (directory / name).symlink_to("/dev/zero")
os.mkfifo(directory / "exit")
(directory / "spoilt").touch()


async def bot(runner_args: object) -> None:
    await asyncio.Event().wait()
