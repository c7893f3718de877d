"""One line per step that takes over a second: its title, and how long it took.

Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SHOW_AFTER_SECONDS = 1.0
# A log that nobody watches gets a sign of life twice a minute, not a frame per second.
LOG_EVERY_SECONDS = 30.0

CLEAR = "\r\x1b[K"
"""Erases the terminal's line."""


_lock = threading.RLock()
_running: list[Step] = []
"""Steps that run at the same time. A terminal shows the oldest one; the others say how long they took."""


NOTICE = "notice: "


def say(line: str) -> None:
    """Print a line; on a terminal in the place of a running step's, which is drawn again."""
    with _lock:
        if _running and sys.stdout.isatty():
            sys.stdout.write(CLEAR)
        print(line, flush=True)


def notice(text: str) -> None:
    """Tell whoever watches a run from inside a provider: the engine passes on its host's error output."""
    print(f"{NOTICE}{text}", file=sys.stderr, flush=True)


class Step:
    """A running step. `detail` may be changed while it runs; it follows the title in the line."""

    def __init__(self, title: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self.title = title
        self.detail = ""
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._terminal = stream.isatty()
        self._shown = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    def _line(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.title} … {duration(self.elapsed)}{detail}"

    def show(self) -> None:
        with _lock:
            self._shown = True
            if not self._terminal:
                self._stream.write(self._line() + "\n")
            elif _running[0] is self:
                self._stream.write(CLEAR + self._line())
            self._stream.flush()

    def _run(self) -> None:
        wait = SHOW_AFTER_SECONDS
        while not self._over.wait(wait):
            self.show()
            wait = 1.0 if self._terminal else LOG_EVERY_SECONDS

    def begin(self) -> None:
        with _lock:
            _running.append(self)
        self._thread.start()

    def end(self, failed: bool) -> None:
        self._over.set()
        self._thread.join()
        with _lock:
            _running.remove(self)
            if not self._shown:
                return
            took = duration(self.elapsed)
            outcome = f"failed after {took}" if failed else f"done in {took}"
            self._stream.write(f"{CLEAR if self._terminal else ''}{self.title}: {outcome}\n")
            self._stream.flush()


@contextmanager
def step(
    title: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Step]:
    """Show `title` with the time it takes, once that is more than a second."""
    running = Step(title, stream or sys.stdout, clock)
    running.begin()
    failed = True
    try:
        yield running
        failed = False
    finally:
        running.end(failed)


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
