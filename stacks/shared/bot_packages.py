"""A bot's own packages: the file that lists them, beside the bot file or above it in its repository."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from stacks.errors import ConfigError

NAMES = ("requirements.txt", "pyproject.toml")
"""In this order, as the bot's image takes them."""

_INCLUDED = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]?\s*(\S+)", re.MULTILINE)


def find(bot_file: Path, checkout: Path) -> Path | None:
    """Return the nearest file that lists the bot's packages; None if it has none.

    Looked for beside the bot file, and above it up to the root of its repository. What the checkout's own
    root has lists Switchboard's packages, not a bot's.
    """
    for directory in _directories(bot_file.parent, checkout):
        for name in NAMES:
            path = directory / name
            if path.is_file() and _lists_packages(path):
                return path
    return None


def contents(file: Path, seen: set[Path] | None = None) -> Iterator[bytes]:
    """Yield the content of a file, and of those that it includes with `-r` and `-c`."""
    seen = set() if seen is None else seen
    path = file.resolve()
    if path in seen or not path.is_file():
        return
    seen.add(path)
    content = path.read_bytes()
    yield content
    if path.suffix != ".toml":
        for included in _INCLUDED.findall(content.decode(errors="replace")):
            yield from contents(path.parent / included, seen)


def _directories(beside: Path, checkout: Path) -> Iterator[Path]:
    above = [beside, *beside.parents]
    roots = [directory for directory in above if (directory / ".git").exists()]
    for directory in above if roots else above[:1]:
        if directory == checkout:
            return
        yield directory
        if roots and directory == roots[0]:
            return


def _lists_packages(path: Path) -> bool:
    if path.suffix != ".toml":
        return True
    try:
        project = tomllib.loads(path.read_text()).get("project", {})
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); allowed: a pyproject.toml (PEP 621)") from None
    # Many hold only the settings of tools.
    return "dependencies" in project
