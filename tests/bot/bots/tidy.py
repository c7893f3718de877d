"""Takes a moment to end when it is told to, and leaves a note; so do a thread and an exit hook."""

import asyncio
import atexit
import threading
import time
from pathlib import Path

threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()
atexit.register(lambda: Path("hook-ran").touch())


async def bot(runner_args):
    try:
        await asyncio.sleep(3600)
    finally:
        await asyncio.sleep(0.05)
        Path("goodbye").touch()
