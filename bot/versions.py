"""Versions of Pipecat: those that are supported, and those that were tried.

    python versions.py

checks the one that this Python has, as the build of an image does: an unsupported one is an error, an
untested one gets a warning. Only the standard library is imported: the dispatcher and the set-up share it.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys

PACKAGE = "pipecat-ai"

OLDEST = (1, 7)
NEWEST = (1, 14)
"""The newest version that was tried; a later one of the same major version gets a warning."""


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


SUPPORTED = f"{_text(OLDEST)} to {_text(NEWEST)}"
REQUIREMENT = f">={_text(OLDEST)},<{NEWEST[0] + 1}"
"""The requirement that is installed where a bot asks for a version other than the project's."""


def unsupported(version: str) -> str:
    """Return a sentence why this version of Pipecat cannot be used; empty if it can, or is not a release."""
    release = _release(version)
    if release is None or (release >= OLDEST and release[0] == NEWEST[0]):
        return ""
    return (
        f"Pipecat {version} is not supported: versions {SUPPORTED} are. "
        f"Change {PACKAGE} in the bot's requirements.txt or pyproject.toml."
    )


def untested(version: str) -> str:
    """Return a sentence that this version of Pipecat is newer than those tried; empty if it is not."""
    release = _release(version)
    if release is None or release <= NEWEST or unsupported(version):
        return ""
    return (
        f"Pipecat {version} is newer than the versions tested here, {SUPPORTED}. It runs; if a bot fails, "
        f"pin {PACKAGE}<{NEWEST[0]}.{NEWEST[1] + 1} in its requirements.txt or pyproject.toml."
    )


def _release(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,9})\.(\d{1,9})(?!\d)", version)
    return (int(found[1]), int(found[2])) if found else None


def installed() -> str:
    """Return the version that this Python has; empty if it runs from a checkout, or is missing."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    """Check the installed version."""
    version = installed()
    if refusal := unsupported(version):
        sys.exit(f"error: {refusal}")
    if warning := untested(version):
        print(f"warning: {warning}", file=sys.stderr)


if __name__ == "__main__":
    main()
