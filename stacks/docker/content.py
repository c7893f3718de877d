"""Fingerprints of what images are built from. They are the images' tags: what changes is built anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stacks.local.content import SKIPPED

# The page's product is built anew in the image.
LEFT_OUT = SKIPPED | {"dist"}


def fingerprint(places: Mapping[str, Path], arguments: Mapping[str, str]) -> str:
    """Of the files at these places (name → file or directory), and of the build's arguments.

    What lies below a directory is looked at in full, but for caches and for what begins with a dot.
    """
    digest = hashlib.sha256(json.dumps(dict(arguments), sort_keys=True).encode())
    for name, place in sorted(places.items()):
        for path in sorted(_files(place)):
            relative = path.relative_to(place) if path != place else ""
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\0{name}/{relative}\0{content}".encode())
    return digest.hexdigest()[:16]


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for path in place.iterdir():
        if path.name in LEFT_OUT or path.name.startswith(".") or path.suffix == ".pyc":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file():
            yield path


def of_files(checkout: Path, names: Iterable[str]) -> dict[str, Path]:
    return {name: checkout / name for name in names}
