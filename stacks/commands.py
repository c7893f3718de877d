"""Commands of a setup, which are quiet unless they fail.

Only the standard library is imported here: `stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stacks.errors import SetupError

LAST_LINES = 25
"""apt-get tells which packages it would have to remove before it lists all that it would install."""


END_SECONDS = 5.0
"""For a command to end after SIGTERM; then it is killed."""

_running: set[subprocess.Popen[str]] = set()
_lock = threading.Lock()


def run(
    command: Sequence[str],
    failure: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run it quietly and return its output; raise SetupError with `failure` and its last lines."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise SetupError(f"{failure}: {command[0]}: {error.strerror}") from None
    with process, _listed(process):
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = [line for line in output.splitlines() if line.strip()]
        raise SetupError("\n".join([f"{failure}:", *lines[-LAST_LINES:]]))
    return output


def stop_all() -> None:
    """End the commands that other threads run: their `run` raises."""
    with _lock:
        running = list(_running)
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def _listed(process: subprocess.Popen[str]) -> Iterator[None]:
    with _lock:
        _running.add(process)
    try:
        yield
    finally:
        with _lock:
            _running.discard(process)
