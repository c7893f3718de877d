"""The HTTP server."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import uvicorn

from dispatcher import watchdog
from dispatcher.clock import Clock, SystemClock
from dispatcher.tasks import rest

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
    """Uvicorn, which ends the process if the event loop hangs, and which drains before it exits.

    Told to exit, it goes on answering for `drain_seconds`: a load balancer sees by `/readyz` that it is to
    ask another, and who comes meanwhile hears when to come back. Another signal ends that at once. It says
    that it is about to exit before it waits for the answers in flight: held calls and streams would otherwise
    hold every exit until uvicorn's own limit, and be cut.

    Args:
        on_drain: Called before it drains; not at all if it does not.
        on_exit: Called before it closes.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_exit: Callable[[], None],
        drain_seconds: float = 0.0,
        on_drain: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds
        self._on_drain = on_drain
        self._on_exit = on_exit
        self._clock = clock or SystemClock()
        self._draining = False
        self._hurry: Callable[[], object] = lambda: None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with watchdog.watching():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Some 90,000 objects are there by now, and stay. Looking for garbage among them took 50 ms each time,
        # in which nobody is answered. What is garbage already would stay with them.
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining:
            self._draining = False
            # From a signal's handler, which by itself does not wake the loop.
            self._hurry()
            return
        super().handle_exit(sig, frame)

    async def main_loop(self) -> None:
        await super().main_loop()
        if self._drain_seconds > 0:
            hurried, loop = asyncio.Event(), asyncio.get_running_loop()
            self._hurry = lambda: loop.call_soon_threadsafe(hurried.set)
            self._draining = True
            self._on_drain()
            await rest(self._clock, self._drain_seconds, hurried)
            self._draining = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)
