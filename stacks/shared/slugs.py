"""Names of bot directories, for their images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

HASH_LENGTH = 6
"""Hexadecimal digits of a path's hash in a name; more where these collide too."""


def slugs(directories: Iterable[Path], checkout: Path) -> dict[Path, str]:
    """Name each bot directory, the same at each run and no two alike.

    They are in logical names and in references, so a name that does not collide is never another. Of
    `bots/a-b` and `bots/a/b`, which read the same, the first keeps its name and the others get a hash.
    """
    names: dict[Path, str] = {}
    for directory in sorted(directories):
        name = plain = _slug(directory, checkout)
        digest = hashlib.sha256(str(_from_checkout(directory, checkout)).encode()).hexdigest()
        length = HASH_LENGTH
        while name in names.values():
            name, length = f"{plain}-{digest[:length]}", length + 1
        names[directory] = name
    return names


def _slug(directory: Path, checkout: Path) -> str:
    if directory.is_relative_to(checkout):
        text = _from_checkout(directory, checkout).as_posix()
    else:
        text = f"{directory.name}-{hashlib.sha256(str(directory).encode()).hexdigest()[:HASH_LENGTH]}"
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "checkout"


def _from_checkout(directory: Path, checkout: Path) -> Path:
    """From the checkout, where it is in there: another clone gives the same names."""
    return directory.relative_to(checkout) if directory.is_relative_to(checkout) else directory
