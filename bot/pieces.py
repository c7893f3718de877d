"""Files in pieces: assembles uploads on the disk, and reads the bot's files from there."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bot.logs import logger
from bot.problems import Problem
from bot.protocol import MAX_FILE_BYTES, MAX_UPLOAD_BYTES, Piece

MOST_ARRIVING = 4
"""Limit on a session's concurrent uploads that are larger than a message."""

IDLE_SECONDS = 60.0
"""Time without a piece after which an upload makes room for another: its client has hung up."""


_NO_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO}
)
"""The system's errors for a name that is not a regular file; ENXIO comes from a socket."""


@dataclass
class _Upload:
    file: Path
    size: int
    at: float


class Arriving:
    """Uploads that are not complete yet.

    Args:
        directory: Where they are kept until then; created when it is needed.
    """

    def __init__(self, directory: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._now = now
        self._uploads: dict[str, _Upload] = {}

    async def add(self, piece: Piece, body: bytes) -> Path | None:
        """Add a piece. Return the file once it is complete; the caller deletes it.

        Raises:
            Problem: the piece does not continue an upload, or the upload is too large.
        """
        upload = self._uploads.get(piece.upload) or self._begin(piece)
        if piece.offset != upload.size:
            text = f"The upload has {upload.size} bytes, and its next piece begins at {piece.offset}."
            raise Problem(409, "wrong-piece", text)
        if upload.size + len(body) > MAX_UPLOAD_BYTES:
            del self._uploads[piece.upload]
            await asyncio.to_thread(upload.file.unlink)
            raise too_large()
        upload.size += len(body)
        upload.at = self._now()
        await asyncio.to_thread(_append, upload.file, body)
        if not piece.is_last:
            return None
        del self._uploads[piece.upload]
        return upload.file

    def size(self, piece: Piece) -> int:
        """Return how many bytes of an upload have arrived."""
        upload = self._uploads.get(piece.upload)
        return upload.size if upload else 0

    def _begin(self, piece: Piece) -> _Upload:
        if piece.offset != 0:
            raise Problem(409, "wrong-piece", "The upload was given up: no piece came for too long.")
        for name, upload in list(self._uploads.items()):
            if len(self._uploads) >= MOST_ARRIVING and self._now() - upload.at > IDLE_SECONDS:
                del self._uploads[name]
                upload.file.unlink(missing_ok=True)
        if len(self._uploads) >= MOST_ARRIVING:
            text = f"The session takes {MOST_ARRIVING} large files at a time, and that many are on their way."
            raise Problem(429, "too-many-files", text)
        upload = _Upload(self._directory / uuid.uuid4().hex, 0, self._now())
        self._uploads[piece.upload] = upload
        return upload


def too_large() -> Problem:
    """Return the answer to a file over the limit, worded as the development runner does."""
    return Problem(413, "file-too-large", f"The file exceeds the limit of {MAX_FILE_BYTES} bytes (50 MiB).")


def part_of(folder: Path, name: str, start: int, most: int) -> tuple[Path, bytes, int] | None:
    """Return a regular file below the folder, at most `most` bytes of it from `start` on, and its size.

    None if there is no file of this name.

    Raises:
        Problem: it cannot be read.
    """
    try:
        folder = folder.resolve()
        file = (folder / name).resolve()
        if not file.is_relative_to(folder):
            return None
        with open(file, "rb", opener=_open) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            opened.seek(start)
            return file, opened.read(most), status.st_size
    except (ValueError, RuntimeError):  # a NUL in the name; links in a circle
        return None
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        logger.opt(exception=error).error("a file that the bot left could not be read")
        raise Problem(500, "not-read", "The file could not be read; the bot's log says why.") from error


def _open(path: str, flags: int) -> int:
    """Open a file, without following a link put there meanwhile, and without waiting for a FIFO's writer."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _append(file: Path, body: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as opened:
        opened.write(body)
