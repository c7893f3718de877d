"""What a process of this machine was told at its start, which may end while one asks."""

from __future__ import annotations

import psutil


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of a process that has ended, or that is another user's."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def title_of(process: psutil.Process) -> str:
    return " ".join(words_of(process))
