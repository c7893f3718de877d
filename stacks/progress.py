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


NOTICE = "notice: "


def say(line: str) -> None:
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

    def _show(self) -> None:
        self._shown = True
        if self._terminal:
            self._stream.write(f"\r\x1b[K{self._line()}")
        else:
            self._stream.write(self._line() + "\n")
        self._stream.flush()

    def _run(self) -> None:
        wait = SHOW_AFTER_SECONDS
        while not self._over.wait(wait):
            self._show()
            wait = 1.0 if self._terminal else LOG_EVERY_SECONDS

    def begin(self) -> None:
        self._thread.start()

    def end(self, failed: bool) -> None:
        self._over.set()
        self._thread.join()
        if not self._shown:
            return
        outcome = f"failed after {duration(self.elapsed)}" if failed else f"done in {duration(self.elapsed)}"
        before = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{before}{self.title}: {outcome}\n")
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
