"""Stamps: a file beside a product, with the content hash of what it was made from.

Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def content_hash(files: Iterable[Path]) -> str:
    """Return the hash of the files' names and contents."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def read(stamp: Path) -> str | None:
    """Return what a stamp holds; None where there is none."""
    try:
        return stamp.read_text()
    except FileNotFoundError:
        return None
