"""The `process` provider's view of a machine's processes, from its directory and the process table.

Files in a machine's directory are read with doubt: the bot can write there too. Only what proves absence is
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
"""In the environment of a machine's processes: its directory. What the bot starts inherits it, wherever it
moves to; and no other deployment of this host has the same, whatever its machines are called."""

LEADER_NAME = "switchboard-machine"
"""An argument of a leader; its machine's id and directory follow."""

TAIL_BYTES = 2000
"""Part of a machine's output that goes into its last status: a traceback's worth."""

RECORD_BYTES = 64
"""Part of a record that is read: two process ids, or an exit status."""


@dataclass(frozen=True, slots=True)
class Group:
    """A machine's process group, by the ids of its leader and of itself."""

    directory: Path
    leader: int
    number: int

    def leads(self) -> bool:
        """Return True if the leader lives; another process with its recycled pid has other arguments."""
        try:
            return _led_by(psutil.Process(self.leader)) == self.directory
        except psutil.Error:
            # Gone; or, if we may not look at it, another user's.
            return False

    def runs(self) -> bool:
        """Return True if any process of the machine lives. Searches the process table without a leader."""
        return self.leads() or any(True for _ in self._left_behind())

    def ask(self) -> None:
        """Send SIGTERM to the group, while there is a leader to vouch that it is the machine's."""
        if self.leads():
            self._signal(signal.SIGTERM)

    def end(self) -> None:
        """Have the leader kill all of the machine: it is the parent of what the bot let out of the group."""
        if not self.leads():
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.leader, leader.END_SIGNAL)
            os.kill(self.leader, signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the group, and to what the bot started and let out of it."""
        if self.leads():
            # The leader last: what it is the parent of is known to be the machine's.
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
        """Signal the group that the leader is in: the one on record may be another machine's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgid(self.leader), number)

    def _left_behind(self) -> Iterator[psutil.Process]:
        user = machine_user(self.directory)
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process, user):
                    yield process
            except (psutil.Error, ProcessLookupError, FileNotFoundError, PermissionError):
                continue  # it is gone meanwhile, or another user's

    def _is_ours(self, process: psutil.Process, user: int | None) -> bool:
        if process.pid == self.leader:
            return False
        if user is not None:  # nobody else's processes have it, and none of its processes has another
            return process.uids().real == user
        if process.environ().get(DIRECTORY_VARIABLE) == str(self.directory):
            return True
        # A process that was forked and not started shows the environment of a template.
        in_group = os.getpgid(process.pid) == self.number
        return in_group and Path(process.cwd()).is_relative_to(self.directory)


def read_group(directory: Path) -> Group | None:
    """Return the group on record in a machine's directory; None if there is no record of one."""
    numbers = (read_end(directory, "pid", RECORD_BYTES) or b"").split()
    if len(numbers) != 2 or not all(number.isdigit() and len(number) < 10 for number in numbers):
        return None
    return Group(directory, int(numbers[0]), int(numbers[1]))


def find_groups() -> dict[Path, Group]:
    """Return directory → group of all machines whose leader is in the process table.

    That is true whatever a bot has made of its record.
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
    """Return the user that is the machine's own; None: it runs as the dispatcher's."""
    try:
        owner = os.stat(directory / "work", follow_symlinks=False).st_uid
    except FileNotFoundError:
        return None
    return owner if is_machines_user(owner) else None


def is_machines_user(user: int) -> bool:
    return FIRST_USER <= user < FIRST_USER + USERS


def read_exit_code(directory: Path) -> int | None:
    """Return how the bot's process ended; 128 + n for signal n; None if that is not on record."""
    text = (read_end(directory, "exit", RECORD_BYTES) or b"").strip()
    return int(text) if text.isdigit() and int(text) <= 255 else None


def read_tail(directory: Path) -> str:
    """Return the last lines that the machine printed."""
    end = read_end(directory, NEWEST, TAIL_BYTES) or b""
    return end.decode(errors="replace").replace("\0", "").strip()


def _led_by(process: psutil.Process) -> Path | None:
    """Return the directory of the machine whose leader this process is."""
    arguments = process.cmdline()
    # A leader from a template has its title in the place of its arguments, and nothing in those that follow.
    if LEADER_NAME in arguments:
        begin = arguments.index(LEADER_NAME)
        title = arguments[begin : begin + 3]
    else:
        title = " ".join(arguments).rstrip().split(" ", 2)
    if len(title) != 3 or title[0] != LEADER_NAME or process.status() == psutil.STATUS_ZOMBIE:
        return None
    if is_machines_user(process.uids().real):  # a bot that passes itself off as a leader
        return None
    directory = Path(title[2])
    return directory if directory.name == title[1] else None
