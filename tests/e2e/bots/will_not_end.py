"""A bot that stands still: it reads nothing, and no signal but SIGKILL ends it."""

import os
import signal

print("it stays", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)


async def bot(runner_args: object) -> None: ...
