"""The health file of a container: touched for as long as the control thread runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bot.logs import logger

HEALTH_FILE_VARIABLE = "SWITCHBOARD_HEALTH_FILE"
"""The path of the health file; the images set it, and their health command checks the file's age."""

BEAT_SECONDS = 5.0


async def beat(file: Path) -> None:
    """Touch the file periodically, until cancelled or until it cannot be written: the bot goes on
    without it."""
    while True:
        try:
            file.touch()  # noqa: ASYNC240 - in memory, where a container has it
        except OSError as error:
            logger.warning(f"the health file {file} is not written: {error.strerror}")
            return
        await asyncio.sleep(BEAT_SECONDS)
