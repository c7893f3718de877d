"""The HTTP server."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import uvicorn

from dispatcher import watchdog

log = logging.getLogger(__name__)

T = TypeVar("T")

TAKEN_SECONDS = 1.0
"""Time for which a taken port or lock is retried."""

TAKEN = (errno.EADDRINUSE, errno.EWOULDBLOCK)


def once_free(take: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Return the result of `take`, retried for a second while the resource is taken.

    A dispatcher that was killed while it started a process leaves its port and its lock to that process,
    until the process has executed its own program.

    Raises:
        OSError: the last error of `take`; at once if it is not that the resource is taken.
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
    """Uvicorn, which drains before it exits, and exits if the event loop hangs.

    Load balancers learn from a failing readiness probe that a server will exit, and send it requests until
    then: the listener stays open for `drain_seconds` after the first signal. A second signal closes it at
    once; one more SIGINT exits without any wait, as uvicorn does.

    Args:
        on_drain: Called at the first signal; new work is refused from then on.
        on_exit: Called before the wait for answers in flight. Held calls and streams would otherwise delay
            every exit until uvicorn's own limit, and then be cut.
        elapsed: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_drain: Callable[[], None],
        on_exit: Callable[[], None],
        drain_seconds: float,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._on_exit = on_exit
        self._drain_seconds = drain_seconds
        self._elapsed = elapsed
        self._drain_ends: float | None = None
        self._drained = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        async with watchdog.watching():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Some 90,000 objects exist by now, and stay. Each collection among them took 50 ms, during which
        # nobody is answered. Collect first, or present garbage would stay too.
        gc.collect()
        gc.freeze()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and not self._drained:
            self._drained = True
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        # The main loop goes on while requests are answered: it updates their `Date`.
        if not await super().on_tick(counter):
            return False
        if self._drain_ends is None:
            self._on_drain()
            self._drain_ends = self._elapsed() + self._drain_seconds
            if self._drain_seconds:
                log.info("draining for %g s; a second signal ends that", self._drain_seconds)
        if self._elapsed() >= self._drain_ends:
            self._drained = True
        return self._drained

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_exit()
        await super().shutdown(sockets)
