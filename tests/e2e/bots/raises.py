"""A bot that raises before its pipeline runs."""


async def bot(runner_args: object) -> None:
    raise RuntimeError("the kettle is cold")
