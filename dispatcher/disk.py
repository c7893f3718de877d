"""Free space on this host's disks. When it is short, starts are refused first: ends must still be written."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dispatcher.clock import Clock

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Free bytes needed in each directory. SQLite's log takes as much until it is copied (`checkpoints`)."""

LOOK_SECONDS = 1.0
"""Interval between checks for starts: the fastest bot fills the rest in less, and a check takes 10 µs."""


def free_bytes(directory: Path) -> int:
    """Return how many bytes may still be written there."""
    return shutil.disk_usage(directory).free


class Disk:
    """The directories on this host's disks that a dispatcher writes to.

    Args:
        free: Returns how many bytes may still be written in a directory.
    """

    def __init__(
        self, directories: Iterable[Path], clock: Clock, free: Callable[[Path], int] = free_bytes
    ) -> None:
        self._directories = tuple(directories)
        self._clock = clock
        self._free = free
        self._looked_at = float("-inf")
        self._was_full = False

    def shortage(self) -> tuple[Path, int] | None:
        """Return a directory without enough room, and its free bytes; None if each has enough.

        Raises:
            OSError: One cannot be checked.
        """
        for directory in self._directories:
            if (free := self._free(directory)) < LEAST_FREE_BYTES:
                return directory, free
        return None

    def is_full(self) -> bool:
        """Return True if starts must be refused, as of the last second.

        A directory that cannot be checked is not full: readiness reports it, and the store fails on it.
        """
        now = self._clock.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            try:
                self._was_full = self.shortage() is not None
            except OSError:
                self._was_full = False
        return self._was_full


def why_not(directory: Path) -> str:
    """Write a page in a directory. Return the error and its remedy; empty if it worked."""
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(_PAGE_BYTES))
    except OSError as error:
        return in_words(error)
    return ""


def in_words(error: OSError) -> str:
    """Return the system's error, with its remedy where known."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error}; {remedy}" if remedy else str(error)


_PAGE_BYTES = 65536
"""Size of the trial file: larger than what some file systems keep within the directory entry."""

_REMEDIES = {
    errno.ENOSPC: "free some of the disk, or name another directory",
    errno.EDQUOT: "free some of this user's quota, or name another directory",
    errno.EROFS: "mount it to be written, or name another directory",
    errno.EACCES: "let this user write there, or name another directory",
    errno.EPERM: "let this user write there, or name another directory",
}
