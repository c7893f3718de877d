"""A bot whose file cannot be imported."""

raise RuntimeError("the phrase book is missing")


async def bot(runner_args: object) -> None: ...
