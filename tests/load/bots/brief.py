"""Talks to its client for as many seconds as the start's body says, and goes; leaves a note of its birth.

With a `harm` in the body it does that first.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipecat import pipeline  # the stand-in's

machine_id = os.environ["SWITCHBOARD_MACHINE_ID"]
(Path(os.environ["LOAD_BIRTHS"]) / f"{machine_id}.{os.getpid()}").touch()


def hang() -> None:
    """Stand still without dying: nothing in this process runs any more."""
    os.kill(os.getpid(), signal.SIGSTOP)


def block() -> None:
    """Keep the event loop, and hear no signal that asks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


def flood() -> None:
    """Print without end, and go on."""

    def print_on() -> None:
        while True:
            os.write(1, b"flood" * 1000)

    threading.Thread(target=print_on, daemon=True).start()


def spoil() -> None:
    """Put pipes in the place of the machine's files, and leave a process that nobody knows of."""
    for name in ("pid", "exit", "output.log"):
        path = Path(os.environ["SWITCHBOARD_MACHINE_DIR"]) / name
        try:
            path.unlink(missing_ok=True)
            os.mkfifo(path)
        except OSError:
            print("the machine's files are not the bot's to spoil")
    stays = f"trap '' TERM HUP; while :; do sleep 1; done # {os.environ['LOAD_BIRTHS']}"
    if os.fork() == 0:
        os.setsid()
        os.execve("/bin/sh", ["sh", "-c", stays], {})


HARMS: dict[str, Callable[[], None]] = {"hang": hang, "block": block, "flood": flood, "spoil": spoil}


async def bot(runner_args):
    pipeline.start()  # pyright: ignore[reportAttributeAccessIssue]
    if harm := runner_args.body.get("harm"):
        HARMS[harm]()
    await asyncio.sleep(runner_args.body["seconds"])
