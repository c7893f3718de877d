"""Keeps room on the disk of SQLite's file, to be given up when the disk is full.

A start is refused before that (`dispatcher.disk`). What is still written by then ends sessions, and says that
this dispatcher lives: it must go through, or nobody could end the bot that has filled the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from pathlib import Path

from dispatcher.clock import Clock
from dispatcher.disk import LEAST_FREE_BYTES, free_bytes

log = logging.getLogger(__name__)

BALLAST_BYTES = 16 * 1024 * 1024
"""Some hundred ends, of 60 KB of SQLite's log each, until the log is copied and begins anew."""

LOOK_SECONDS = 10.0
"""Between two looks for room to take it again."""


class Ballast:
    """A file that takes room, and holds nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    async def keep(self, clock: Clock) -> None:
        """Take the room whenever there is enough of it, until cancelled. Does nothing without a file."""
        while self._file is not None:
            await asyncio.to_thread(self._take, self._file)
            await clock.sleep(LOOK_SECONDS)

    async def give_up(self) -> bool:
        """Give the room back. True if there was any; whoever asks next finds none."""
        return self._file is not None and await asyncio.to_thread(self._remove, self._file)

    def _remove(self, file: Path) -> bool:
        try:
            file.unlink()
        except OSError:
            return False
        return True

    def _take(self, file: Path) -> None:
        try:
            if file.exists() or free_bytes(file.parent) < LEAST_FREE_BYTES + BALLAST_BYTES:
                return
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _fill(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                file.unlink()
            log.debug("no room can be kept on the disk: %s", error)


def _fill(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
        return
    block = bytes(2**20)  # macOS has no such call
    for _ in range(BALLAST_BYTES // len(block)):
        os.write(descriptor, block)
