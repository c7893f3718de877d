"""Fingerprints of source files on this host: a machine that has imported an older version is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = (".py", ".toml", ".yaml", ".yml", ".md")
"""Suffixes of files that a bot may have read when it was imported. Others (logs, recordings, databases) are
written by bots themselves, and would replace the reserve for ever."""

MOST_ENTRIES = 2000
"""Limit on the files and directories that are looked at, some 10 ms; those nearest to the bot file count."""


def fingerprint(directory: Path) -> str:
    """Return the paths, sizes and times of change of a bot's source files, as text.

    What cannot be read is left out: its machine will say what is wrong.
    """
    return "\n".join(sorted(_entries(directory)))


def _entries(directory: Path) -> Iterator[str]:
    left, pending = MOST_ENTRIES, [directory]
    while pending and left > 0:
        current = pending.pop(0)
        try:
            with os.scandir(current) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError:
            continue
        if current != directory and any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries[:left]:
            left -= 1
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith((".", "__pycache__", "node_modules")):
                        pending.append(Path(entry.path))
                elif entry.name.endswith(SUFFIXES) or entry.name.startswith(".env"):
                    found = entry.stat()
                    yield f"{entry.path} {found.st_size} {found.st_mtime_ns}"
            except OSError:
                continue
