"""The HTTP server."""

from __future__ import annotations

import errno
import gc
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import uvicorn

from dispatcher import watchdog

T = TypeVar("T")

TAKEN_SECONDS = 1.0
"""How long a port or a lock that is taken is asked for again."""

TAKEN = (errno.EADDRINUSE, errno.EWOULDBLOCK)


def once_free(take: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """What `take` gives, tried for a second.

    A dispatcher that was killed while it started a process leaves its port and its lock to that
    process, until this becomes the program that it was started for.

    Raises:
        OSError: what `take` raised the last time; at once if it says anything but that it is taken.
    """
    for _ in range(round(TAKEN_SECONDS / 0.05)):
        try:
            return take()
        except OSError as error:
            if error.errno not in TAKEN:
                raise
        sleep(0.05)
    return take()


class Server(uvicorn.Server):
    """Uvicorn, which ends the process if the event loop hangs.

    And it says that it is about to exit before it waits for the answers in flight.

    Held calls and streams would otherwise hold every exit until uvicorn's own limit, and be cut.
    """

    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with watchdog.watching():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Some 90,000 objects are there by now, and stay. Looking for garbage among them took 50 ms each time,
        # in which nobody is answered. What is garbage already would stay with them.
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)
