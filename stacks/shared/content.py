"""Fingerprints of what images are built from. They are the images' tags: what changes is built anew."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from images.app import walk
from stacks.errors import ConfigError

WITHOUT = ("bot/agents", "dispatcher/web/dist")
"""Of the checkout, what the Dockerfiles leave out where they copy what it lies in: the page is built anew."""


def fingerprint(
    checkout: Path, names: Iterable[str], bots: Path | None, arguments: Mapping[str, str], whose: str
) -> str:
    """Return the fingerprint of files and directories, of a bot directory, and of the build's arguments.

    Args:
        whose: What in the config names them.

    Raises:
        ConfigError: something of it cannot be read.
    """
    try:
        return _fingerprint(checkout, names, bots, arguments)
    except OSError as error:
        raise ConfigError(
            f"{whose} becomes an image, and {error.filename} cannot be read ({error.strerror}); "
            "allowed: a directory whose files you may read"
        ) from None


def _fingerprint(
    checkout: Path, names: Iterable[str], bots: Path | None, arguments: Mapping[str, str]
) -> str:
    digest = hashlib.sha256(json.dumps(dict(arguments), sort_keys=True).encode())
    without = {checkout / name for name in WITHOUT}
    places = {name: list(_files(checkout / name, without)) for name in names}
    if bots is not None:
        places["bot-files"] = list(_files(bots, set()))
    for name, files in sorted(places.items()):
        place = bots if bots is not None and name == "bot-files" else checkout / name
        for path in files:
            digest.update(
                f"\0{name}/{path.relative_to(place)}\0{_content(path)}".encode(errors="surrogateescape")
            )
    return digest.hexdigest()[:16]


def _files(place: Path, without: set[Path]) -> Iterator[Path]:
    """A file, or what of a directory gets into an image."""
    if place.is_file():
        yield place
        return
    for path, left_out in walk(place):
        # Nobody copies a socket, and reading a pipe would not end.
        copied = path.is_symlink() or path.is_file()
        if copied and not left_out and not without.intersection(path.parents):
            yield path


def _content(path: Path) -> str:
    """As an image has it: a symbolic link as one, a file with its right to be executed."""
    if path.is_symlink():
        return f"to {os.readlink(path)}"
    may_run = bool(path.stat().st_mode & stat.S_IXUSR)
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()} {may_run:d}"
