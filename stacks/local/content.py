"""Fingerprints: of the code that a dispatcher runs, and of the secrets that it is given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# What is made on the way, and what only a browser's build reads.
SKIPPED = {"__pycache__", "node_modules", ".pytest_cache", ".ruff_cache"}


def code_hash(checkout: Path, bot_files: Iterable[Path]) -> str:
    """A fingerprint of all that runs: `dispatcher/`, `bot/`, the pinned packages, the bots' directories."""
    digest = hashlib.sha256()
    for path in sorted(set(_files(checkout, bot_files))):
        name = path.relative_to(checkout) if path.is_relative_to(checkout) else path
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(checkout: Path, bot_files: Iterable[Path]) -> Iterator[Path]:
    for directory in (checkout / "dispatcher", checkout / "bot"):
        for path in directory.rglob("*"):
            parts = set(path.relative_to(checkout).parts)
            if path.is_file() and not parts & SKIPPED and path.suffix != ".pyc":
                yield path
    requirements = checkout / "requirements.txt"
    if requirements.is_file():
        yield requirements
    for bot_file in bot_files:
        yield bot_file
        # A bot file imports its neighbours. Deeper is not looked: it may lie in somebody's home directory.
        yield from (path for path in bot_file.parent.glob("*.py") if path.is_file())


def secret_fingerprint(values: Mapping[str, str | None], salt: str) -> str:
    """Changes when a value does, and does not give it away, not even a short one to somebody who guesses.

    The cost (16 MiB, about 50 ms) is scrypt's customary one for interactive use, RFC 7914.
    """
    text = json.dumps(dict(values), sort_keys=True)
    return hashlib.scrypt(text.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()
