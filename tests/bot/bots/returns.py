"""Returns without a pipeline, after it has logged why."""

from loguru import logger


async def bot(runner_args):
    logger.error("the speech service refused the key")
