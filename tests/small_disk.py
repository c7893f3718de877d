"""A small file system of its own for a test, which can be filled."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE

FILLED = "filled"
"""The file by which `fill` fills it."""


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int, options: str = "") -> Iterator[Path]:
    """Mount a file system in memory there until the block ends; skip the test where that is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a file system can be mounted by root on Linux alone")
    directory.mkdir(parents=True, exist_ok=True)
    given = f"size={megabytes}m,mode=700{options and ',' + options}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", given, "switchboard-test", str(directory)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        # Lazily: whoever still has a file open there must not keep the test's end.
        subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=PATIENCE)


def free(directory: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(directory).free


def fill(directory: Path) -> None:
    """Write there until nothing more goes in."""
    with contextlib.suppress(OSError), (directory / FILLED).open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
    with contextlib.suppress(OSError), (directory / FILLED).open("ab", buffering=0) as file:
        while True:
            file.write(bytes(2**10))
