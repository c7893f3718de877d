"""A bot that returns without having started a pipeline."""


async def bot(runner_args: object) -> None:
    return
