"""Room on this host's disks. What is short of it sheds starts first: ends must still be written."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from dispatcher.clock import Clock

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Of each directory that is written. SQLite's log takes that much until it is copied (`checkpoints`)."""

LOOK_SECONDS = 1.0
"""Between two looks for starts: the fastest of bots fills what is left in less, and a look takes 10 µs."""


def free_bytes(directory: Path) -> int:
    """Return how many bytes may still be written there."""
    return shutil.disk_usage(directory).free


class Disk:
    """The directories that a dispatcher writes on this host's disks.

    Args:
        free: Tells how many bytes may still be written in a directory.
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
        """Return a directory without enough room, and how many bytes it has left; None if each has enough.

        Raises:
            OSError: One cannot be looked at.
        """
        for directory in self._directories:
            if (free := self._free(directory)) < LEAST_FREE_BYTES:
                return directory, free
        return None

    def is_full(self) -> bool:
        """Return True if starts are to be refused, as of the last second.

        A directory that cannot be looked at is the readiness' to tell, and the store's to fail with.
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
    """Try to write a page in a directory. Return why that fails, and what to do; nothing if it does not."""
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(bytes(_PAGE_BYTES))
    except OSError as error:
        return in_words(error)
    return ""


def in_words(error: OSError) -> str:
    """Return the system's error with what to do about it, where that is known."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{error}; {remedy}" if remedy else str(error)


_PAGE_BYTES = 65536
"""More than a file takes within its directory's entry."""

_REMEDIES = {
    errno.ENOSPC: "free some of the disk, or name another directory",
    errno.EDQUOT: "free some of this user's quota, or name another directory",
    errno.EROFS: "mount it to be written, or name another directory",
    errno.EACCES: "let this user write there, or name another directory",
    errno.EPERM: "let this user write there, or name another directory",
}
