"""Revision of the repository that images are made from, for their labels."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SECONDS = 30


def revision(checkout: Path, paths: Sequence[str]) -> str | None:
    """The commit that last changed these paths, with `-dirty` if they have changed since; None without git.

    Not the newest commit of all: images would be made anew after each, whatever it changed.
    """
    found = _git(checkout, "log", "--max-count=1", "--format=%H", "--", *paths)
    if not found:
        return None
    changed = _git(checkout, "status", "--porcelain", "--", *paths)
    return f"{found}-dirty" if changed else found


def _git(checkout: Path, *arguments: str) -> str:
    """Return git's output; nothing if there is no git, or no repository that it would speak of."""
    try:
        said = subprocess.run(
            # Not the repository that the checkout may lie in, if it has none of its own.
            [  # noqa: S607 - from the PATH of whoever runs this
                "git",
                "--no-optional-locks",
                f"--git-dir={checkout / '.git'}",
                f"--work-tree={checkout}",
                *arguments,
            ],
            cwd=checkout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
