"""Frees a full disk: deletes files of gone machines, except their record and logs."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from bot.output import BEFORE, HEAD, NEWEST, SEGMENT_BYTES
from dispatcher.disk import LEAST_FREE_BYTES, free_bytes

log = logging.getLogger(__name__)

_KEPT = ("pid", "exit", HEAD, BEFORE, NEWEST)
_LARGEST = 2 * SEGMENT_BYTES
"""Limit on a log that is kept: a larger file is the bot's, which can write there as well."""


def free_room(directory: Path) -> None:
    """Delete a gone machine's files, if the disk has too little room for starts.

    Raises:
        OSError: The directory cannot be read.
    """
    try:
        before = free_bytes(directory)
        if before >= LEAST_FREE_BYTES:
            return
        with os.scandir(directory) as found:
            entries = list(found)
    except FileNotFoundError:  # the bot has removed it
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name not in _KEPT or entry.stat(follow_symlinks=False).st_size > _LARGEST:
            os.unlink(entry.path)
    freed = (free_bytes(directory) - before) // 2**20
    log.warning("the disk is full: %d MB of files of machine %s were deleted", freed, directory.name)
