"""Remains of interrupted runs in a file backend: locks, and attributes that were half-written.

A backend in files has no server that could tell a dead run from a living one: a run that is killed leaves its
lock file, and every later run refuses. The file names pid and host, so that can be told here.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

import psutil

from stacks.errors import LockedError
from stacks.progress import say

# Between a process's start and its lock lie at least its imports; clocks and rounding are within this.
CLOCK_SLACK_SECONDS = 2.0


@dataclass(frozen=True)
class Lock:
    """Holder of a stack, as its lock file says."""

    file: Path
    pid: int
    user: str
    host: str
    since: datetime

    @property
    def dead(self) -> bool:
        """True if its owner is known to be gone: of another host nothing is known."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            started = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        # Started after the lock was taken: another process that has got the pid since.
        return started > self.since.timestamp() + CLOCK_SLACK_SECONDS

    def __str__(self) -> str:
        return f"{self.user}@{self.host} (process {self.pid}) since {self.since:%Y-%m-%d %H:%M:%S}"


def locks(backend: str, project: str, stack: str) -> list[Lock]:
    """The locks on a stack of a file backend; none for other backends, whose servers see to it themselves."""
    url = urlparse(backend)
    if url.scheme != "file":
        return []
    directory = Path(unquote(url.netloc + url.path)).expanduser()
    found = []
    for file in sorted((directory / ".pulumi" / "locks" / "organization" / project / stack).glob("*.json")):
        # A lock may be given back while we look.
        with contextlib.suppress(FileNotFoundError):
            found.append(_read(file))
    return found


def _read(file: Path) -> Lock:
    try:
        content = json.loads(file.read_text())
        return Lock(
            file=file,
            pid=int(content["pid"]),
            user=str(content["username"]),
            host=str(content["hostname"]),
            since=datetime.fromisoformat(content["timestamp"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LockedError(
            f"the stack's lock {file} cannot be read ({error}); remove it if no run is alive"
        ) from None


def break_dead_locks(backend: str, project: str, stack: str) -> None:
    """Remove the locks of the dead.

    Raises:
        LockedError: a living process holds one.
    """
    found = locks(backend, project, stack)
    for lock in found:
        if not lock.dead:
            raise LockedError(
                f"stack {stack} is locked by {lock}; wait until that run is over"
                + ("" if lock.host == socket.gethostname() else f", or remove {lock.file} if it is not alive")
            )
    for lock in found:
        say(f"an interrupted run left its lock: {lock} is not alive any more; going on")
        lock.file.unlink(missing_ok=True)


def drop_broken_attributes(backend: str) -> None:
    """Remove attributes of state files that a run was writing when it was killed.

    A backend in files keeps a content type and a checksum beside each file, in one of its name with `.attrs`.
    The file itself is replaced as a whole; this one is written in place, and an empty one makes the state
    unreadable ("failed to load checkpoint: EOF"). None is as good as a right one.
    """
    url = urlparse(backend)
    if url.scheme != "file":
        return
    root = Path(unquote(url.netloc + url.path)).expanduser() / ".pulumi"
    for file in [*root.glob("*.attrs"), *(root / "stacks").rglob("*.attrs")]:
        with contextlib.suppress(FileNotFoundError):
            if not _is_json(file):
                say(f"an interrupted run left {file} half-written; it holds no state and is removed")
                file.unlink()


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return False
    return True
