"""Commands of a setup, which are quiet unless they fail.

Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from stacks.errors import SetupError

LAST_LINES = 25
"""apt-get tells which packages it would have to remove before it lists all that it would install."""


def run(
    command: Sequence[str],
    failure: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run it quietly; returns what it wrote. Raises SetupError with `failure` and the last lines of that."""
    try:
        result = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SetupError(f"{failure}: {command[0]}: {error.strerror}") from None
    if result.returncode:
        lines = [line for line in result.stdout.splitlines() if line.strip()]
        raise SetupError("\n".join([f"{failure}:", *lines[-LAST_LINES:]]))
    return result.stdout
