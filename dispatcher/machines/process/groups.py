"""A machine's processes, as found in its directory and in the process table.

Files in a machine's directory are not trusted: the bot can write there too. Only proof of absence counts as
absence: any other error of the system is raised as `OSError`. All of this takes time: call it off the event
loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bot import leader
from bot.confinement import FIRST_USER, USERS
from bot.output import NEWEST
from dispatcher.machines.bot_files import read_end

DIRECTORY_VARIABLE = "SWITCHBOARD_MACHINE_DIR"
"""Variable of a machine's processes with its directory.

Every process that the bot starts inherits it. The directory is unique on this host, even among deployments
whose machines have equal ids.
"""

LEADER_NAME = "switchboard-machine"
"""First argument of a leader; its machine's id and directory follow."""

TAIL_BYTES = 2000
"""Bytes of a machine's output in its last status: enough for a traceback."""

RECORD_BYTES = 64
"""Limit on reading a record: two process ids, or an exit status."""


@dataclass(frozen=True, slots=True)
class Group:
    """A machine's process group: the ids of its leader and of the group."""

    directory: Path
    leader: int
    number: int

    def leads(self) -> bool:
        """Return True if the leader lives; another process with its recycled pid has other arguments."""
        try:
            return _led_by(psutil.Process(self.leader)) == self.directory
        except psutil.Error:
            # It has exited or, if access is denied, belongs to another user.
            return False

    def runs(self) -> bool:
        """Return True if any process of the machine lives. Searches the process table without a leader."""
        return self.leads() or any(True for _ in self._left_behind())

    def ask(self) -> None:
        """Send SIGTERM to the group, if its leader lives and so proves that it is the machine's."""
        if self.leads():
            self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Have the leader kill the whole machine: it is also the parent of processes that left the group."""
        if not self.leads():
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.leader, leader.END_SIGNAL)
            os.kill(self.leader, signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the group, and to the bot's processes that left it."""
        if self.leads():
            # The leader last: its children are known to be the machine's.
            for pid in leader.descendants(self.leader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._signal(signal.SIGKILL)
        if (user := machine_user(self.directory)) is not None:
            end_user = [sys.executable, "-I", "-S", leader.__file__, leader.END_USER, str(user)]
            subprocess.run(end_user, check=True, stdin=subprocess.DEVNULL)
        for process in self._left_behind():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the leader's actual group: the recorded one may be another machine's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(self.leader), number)

    def _left_behind(self) -> Iterator[psutil.Process]:
        user = machine_user(self.directory)
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process, user):
                    yield process
            except (psutil.Error, ProcessLookupError, FileNotFoundError, PermissionError):
                continue  # it has exited meanwhile, or is another user's

    def _is_ours(self, process: psutil.Process, user: int | None) -> bool:
        if process.pid == self.leader:
            return False
        if user is not None:  # the user owns exactly the machine's processes
            return process.uids().real == user
        if process.environ().get(DIRECTORY_VARIABLE) == str(self.directory):
            return True
        # A process that was forked and not started shows the environment of a template.
        in_group = os.getpgid(process.pid) == self.number
        return in_group and Path(process.cwd()).is_relative_to(self.directory)


def read_group(directory: Path) -> Group | None:
    """Return the group recorded in a machine's directory; None if none is."""
    numbers = (read_end(directory, "pid", RECORD_BYTES) or b"").split()
    if len(numbers) != 2 or not all(number.isdigit() and len(number) < 10 for number in numbers):
        return None
    return Group(directory, int(numbers[0]), int(numbers[1]))


def find_groups() -> dict[Path, Group]:
    """Return directory → group of all machines whose leader is in the process table.

    It does not depend on the records, which a bot may have changed.
    """
    found: dict[int, tuple[Path, int]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            if (directory := _led_by(process)) is not None:
                found[process.pid] = (directory, process.ppid())
    groups: dict[Path, Group] = {}
    for pid, (directory, parent) in found.items():
        # A process that was forked and not started shows the arguments of its parent.
        if parent not in found:
            with contextlib.suppress(ProcessLookupError):
                groups[directory] = Group(directory, pid, os.getpgid(pid))
    return groups


def machine_user(directory: Path) -> int | None:
    """Return the machine's own user; None if it runs as the dispatcher's."""
    try:
        owner = os.stat(directory / "work", follow_symlinks=False).st_uid
    except FileNotFoundError:
        return None
    return owner if is_machines_user(owner) else None


def is_machines_user(user: int) -> bool:
    return FIRST_USER <= user < FIRST_USER + USERS


def read_exit_code(directory: Path) -> int | None:
    """Return the exit status of the bot's process; 128 + n for signal n; None if it is not on record."""
    text = (read_end(directory, "exit", RECORD_BYTES) or b"").strip()
    return int(text) if text.isdigit() and int(text) <= 255 else None


def read_tail(directory: Path) -> str:
    """Return the last lines that the machine printed."""
    end = read_end(directory, NEWEST, TAIL_BYTES) or b""
    return end.decode(errors="replace").replace("\0", "").strip()


def _led_by(process: psutil.Process) -> Path | None:
    """Return the directory of the machine whose leader this process is."""
    arguments = process.cmdline()
    # A leader from a template has its title as its first argument, and empty ones after it.
    if LEADER_NAME in arguments:
        begin = arguments.index(LEADER_NAME)
        title = arguments[begin : begin + 3]
    else:
        title = " ".join(arguments).rstrip().split(" ", 2)
    if len(title) != 3 or title[0] != LEADER_NAME or process.status() == psutil.STATUS_ZOMBIE:
        return None
    if is_machines_user(process.uids().real):  # a bot that pretends to be a leader
        return None
    directory = Path(title[2])
    return directory if directory.name == title[1] else None
