"""Reads files that a bot can write: only regular files, up to a limit, without following links or blocking.

A bot may put a FIFO, a link to `/dev/zero` or 10 GB in the place of a file of its machine. Reading still
takes disk time: call this off the event loop.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_UNREADABLE = (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM)
"""Errors that a link, a socket or a mode set by the bot causes. Any other error is the system's."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_end(directory: Path, name: str, most: int) -> bytes | None:
    """Return the last `most` bytes of a file in a machine's directory.

    None: there is no such file. Empty: it is not a readable regular file.

    Raises:
        OSError: The system failed, as with no file descriptor left.
    """
    try:
        file = open_regular(directory, name)
    except FileNotFoundError:
        return None
    if file is None:
        return b""
    try:
        # The size was taken before the read, which stops there even if the file grows.
        size = os.fstat(file).st_size
        return os.pread(file, min(most, size), max(0, size - most))
    finally:
        os.close(file)


def open_regular(directory: Path, name: str) -> int | None:
    """Open a file in a machine's directory; return None if it is not a readable regular file.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The system failed, as with no file descriptor left.
    """
    try:
        there = os.open(directory, _DIRECTORY)
        try:
            file = os.open(name, _FILE, dir_fd=there)
        finally:
            os.close(there)
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(error.errno, f"{directory / name} is not there") from error
        if error.errno in _UNREADABLE:
            return None
        raise
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return None
