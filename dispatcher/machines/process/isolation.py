"""Isolation of machines that are processes of this host, from each other and from the dispatcher.

If the dispatcher is root, each machine gets a user of its own, which owns nothing but its directories. A bot
whose files that user cannot read runs as root. Landlock keeps private files from all of them, where the
kernel has it. docs/security.md says what this protects.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from bot.confinement import FIRST_USER, USABLE_ABI, USERS, Confinement, landlock_abi
from dispatcher.machines.process.environment import CACHE, PYTHONPATH, cache_directory
from dispatcher.machines.process.groups import is_machines_user
from dispatcher.machines.provider import Rejected

log = logging.getLogger(__name__)

Mode = Literal["auto", "off", "required"]

PROBE_SECONDS = 20.0
"""Limit on the check that a machine's user can read the bot's files; it usually takes a third of a second."""

CACHE_FILES = 20_000
"""Limit on the cache's files whose modes are set before a machine starts."""

_FIRST_GROUP = FIRST_USER + USERS

_PROBE = """
import os, sys
import bot.protocol
for name in sys.argv[1:]:
    os.path.isdir(name) and os.listdir(name) or open(name).close()
"""
"""Program that reads the bot's needs as its user: the packages, the runtime, and the files beside the bot
file."""


class Isolation:
    """Chooses the limits of a machine, and gives it its directories.

    Args:
        root: The directory that holds the machines' directories.
        private: Paths that no machine may read, `root` among them or below one of them.
    """

    def __init__(self, mode: Mode, root: Path, private: Sequence[Path]) -> None:
        self._mode: Mode = mode
        self._root = root
        self._private = tuple(str(path.resolve()) for path in private)
        self._lock = threading.Lock()
        self._unreadable: dict[tuple[str, str], str] = {}

    @property
    def landlock(self) -> bool:
        return self._mode != "off" and landlock_abi() >= USABLE_ABI

    @property
    def users(self) -> bool:
        return self._mode != "off" and sys.platform == "linux" and os.geteuid() == 0

    @property
    def weak(self) -> bool:
        """True if nothing keeps machines from private files."""
        return not self.users and not self.landlock

    def describe(self) -> str:
        """Return the kind of isolation, for the log."""
        parts = ["a user for each machine"] if self.users else []
        if self.landlock:
            parts.append(f"Landlock (version {landlock_abi()})")
        return (
            " and ".join(parts)
            or "none: bots read all that the dispatcher's user can, its signing secret too"
        )

    def confine(
        self, directory: Path, python: str, bot_file: Path, environment: Mapping[str, str]
    ) -> Confinement:
        """Give a machine its `work` and `tmp`, and return its limits.

        Raises:
            Rejected: Nothing could isolate it, and isolation is required.
        """
        cache = cache_directory(self._root, bot_file)
        user = group = None
        if self.users and not self._unreadable_by_others(python, bot_file, environment):
            group = _share(cache)
            user = self._give(directory)
        elif self._mode == "required" and not self.landlock:
            raise Rejected(
                "nothing isolates the machine from the dispatcher's data, and isolation is 'required'; "
                "allowed: a dispatcher that is root, with a bot that others may read; Landlock (Linux 5.19); "
                "or 'auto'"
            )
        # A directory that contains a private path is not allowed as a whole.
        needed = (self._root / PYTHONPATH, bot_file.parent.resolve(), Path(python).parent.parent)
        readable = (path for path in needed if not any(_is_in(one, path) for one in self._private))
        return Confinement(
            user=user,
            group=group,
            landlock=self.landlock,
            private=self._private,
            own=tuple(str(path) for path in (directory / "work", directory / "tmp", cache)),
            readable=tuple(str(path) for path in readable),
        )

    def _unreadable_by_others(self, python: str, bot_file: Path, environment: Mapping[str, str]) -> str:
        """Return why a machine's own user could not run the bot; empty if it could."""
        key = (python, str(bot_file))
        with self._lock:
            if key not in self._unreadable:
                self._open_ways()
                self._unreadable[key] = wrong = _probe(python, bot_file, environment)
                if wrong:
                    log.warning(
                        "machines of %s run as root%s: a user of their own cannot run them: %s",
                        bot_file,
                        ", with Landlock" if self.landlock else " and read all that the dispatcher can",
                        wrong,
                    )
            return self._unreadable[key]

    def _open_ways(self) -> None:
        """Let other users pass through to their own directories. Only root can list the contents."""
        for directory in (self._root.parent, self._root, self._root / CACHE):
            directory.mkdir(exist_ok=True)
            directory.chmod(stat.S_IMODE(directory.stat().st_mode) | 0o011)
        for place, _, _ in os.walk(self._root / PYTHONPATH):
            os.chmod(place, 0o755)  # noqa: S103 - links to code

    def _give(self, directory: Path) -> int:
        directory.chmod(0o711)
        with self._lock:
            used = self._used()
            user = random.choice([one for one in range(FIRST_USER, FIRST_USER + USERS) if one not in used])  # noqa: S311
            for name in ("tmp", "work"):
                os.chown(directory / name, user, user)
                (directory / name).chmod(0o700)
        return user

    def _used(self) -> set[int]:
        """Return the users of machines whose directory exists, and of every process of this host."""
        used = set()
        for place, name in ((self._root, "work"), (Path("/proc"), "")):
            with os.scandir(place) as entries:
                for entry in entries:
                    try:
                        used.add(os.stat(Path(entry.path) / name, follow_symlinks=False).st_uid)
                    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
                        continue
        return used


def _share(cache: Path) -> int:
    """Give a bot file's cache, with all its files, to a group of its machines. Return the group."""
    group = _FIRST_GROUP + int(hashlib.sha256(str(cache).encode()).hexdigest(), 16) % USERS
    seen = 0
    for _, directories, files, place in os.fwalk(cache):
        _give_to_group(os.dup(place), group)
        for name in (*directories, *files):
            seen += 1
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                file = os.open(name, flags, dir_fd=place)
            except OSError:  # a link, or it was deleted meanwhile
                continue
            _give_to_group(file, group)
        if seen > CACHE_FILES:
            break
    return group


def _give_to_group(file: int, group: int) -> None:
    """Let the group read and write a file of a machine's or of the dispatcher's, and close it."""
    try:
        found = os.fstat(file)
        is_directory = stat.S_ISDIR(found.st_mode)
        # A hard link may lead to a file elsewhere.
        plain = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not (is_directory or plain) or not (
            found.st_uid == os.geteuid() or is_machines_user(found.st_uid)
        ):
            return
        mode = stat.S_IMODE(found.st_mode) | (0o2070 if is_directory else 0o060)
        if found.st_gid != group:
            os.fchown(file, -1, group)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(file, mode)
    finally:
        os.close(file)


def _is_in(path: str, directory: Path) -> bool:
    return Path(path).is_relative_to(directory)


def _probe(python: str, bot_file: Path, environment: Mapping[str, str]) -> str:
    """Return why a machine's user cannot read the bot's files; empty if it can."""
    beside = [bot_file.parent, *sorted(bot_file.parent.iterdir())]
    # As for the links in a machine's directory: of hidden files only `.env`.
    names = [str(path) for path in beside if not path.name.startswith(".") or path.name.startswith(".env")]
    user = FIRST_USER
    try:
        subprocess.run(
            [python, "-P", "-c", _PROBE, *names],
            check=True,
            cwd="/",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            user=user,
            group=user,
            extra_groups=[],
            start_new_session=True,
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its Python ends with status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""
