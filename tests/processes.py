"""Arguments and environment of a process of this machine, which may end while one asks."""

from __future__ import annotations

import secrets

import psutil


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of a process that has ended, or that is another user's."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def title_of(process: psutil.Process) -> str:
    return " ".join(words_of(process))


def unmistakable_seconds() -> str:
    """Return an argument of `sleep` that no other process of this machine has, of no other run either."""
    return str(10**8 + secrets.randbelow(10**9))
