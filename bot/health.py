"""A sign of life for whoever runs the container: a file that is touched while the control thread can."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bot.logs import logger

HEALTH_FILE_VARIABLE = "SWITCHBOARD_HEALTH_FILE"
"""The path of the file; the images set it, and their health command looks how old the file is."""

BEAT_SECONDS = 5.0


async def beat(file: Path) -> None:
    """Touch the file now and then, until cancelled or until it can't be written: a bot goes on without it."""
    while True:
        try:
            file.touch()  # noqa: ASYNC240 - in memory, where a container has it
        except OSError as error:
            logger.warning(f"the health file {file} is not written: {error.strerror}")
            return
        await asyncio.sleep(BEAT_SECONDS)
