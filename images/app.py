"""Remove from a bot directory what no bot runs, and what must not get into an image.

    python app.py DIRECTORY

Removed are names that begin with a dot (secrets, repositories, caches of tools), virtual environments,
packages of Node, and bytecode. The fingerprint of a bot directory (`stacks/shared/content.py`) covers what is
left.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = frozenset({"node_modules", "__pycache__"})


def is_left_out(path: Path) -> bool:
    """Return True if the image lacks this entry of a bot directory, and everything below it."""
    if path.name.startswith(".") or path.name in LEFT_OUT or path.suffix == ".pyc":
        return True
    # Every virtual environment has this file (PEP 405).
    return not path.is_symlink() and (path / "pyvenv.cfg").is_file()


def walk(directory: Path) -> Iterator[tuple[Path, bool]]:
    """Yield each entry below a directory that is left out or is not a directory, and whether it is
    left out."""
    for path in sorted(directory.iterdir()):
        if is_left_out(path):
            yield path, True
        elif path.is_dir() and not path.is_symlink():
            yield from walk(path)
        else:
            yield path, False


def strip(directory: Path) -> None:
    for path in [path for path, left_out in walk(directory) if left_out]:
        print(f"left out: {path.relative_to(directory)}")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    strip(Path(sys.argv[1]))
