"""A bot whose import never ends."""

import threading

threading.Event().wait()


async def bot(runner_args: object) -> None: ...
