"""What the `process` provider knows of a machine's processes, from its directory and the process table.

Files in a machine's directory are read with doubt: the bot can write there too.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MACHINE_VARIABLE = "SWITCHBOARD_MACHINE_ID"
"""In the environment of a machine: its id."""

DIRECTORY_VARIABLE = "SWITCHBOARD_MACHINE_DIR"
"""In the environment of a machine's processes: its directory. What the bot starts inherits it, wherever it
moves to; and no other deployment of this host has the same, whatever its machines are called."""

TAIL_BYTES = 2000
"""How much of a machine's output goes into its last status: a traceback's worth."""


@dataclass(frozen=True, slots=True)
class Group:
    """A machine's process group, by the ids of its leader and of itself."""

    directory: Path
    leader: int
    number: int

    @property
    def machine_id(self) -> str:
        return self.directory.name

    def leads(self) -> bool:
        """Whether the leader lives; another process with its recycled pid has other arguments."""
        try:
            leader = psutil.Process(self.leader)
            # A leader from a template shows its title in one piece.
            words = " ".join(leader.cmdline()).split()
            return leader.status() != psutil.STATUS_ZOMBIE and self.machine_id in words
        except psutil.Error:
            return False

    def runs(self) -> bool:
        """Whether any process of the machine lives. Looks through the process table if the leader is gone."""
        return self.leads() or any(True for _ in self._left_behind())

    def ask(self) -> None:
        """Send SIGTERM to the group, while there is a leader to vouch that it is the machine's."""
        if self.leads():
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group, and to what the bot started and let out of it."""
        if self.leads():
            self._signal(signal.SIGKILL)
        for process in self._left_behind():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.number, number)

    def _left_behind(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process):
                    yield process
            except (psutil.Error, OSError):
                continue  # it is gone meanwhile, or another user's

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == self.leader:
            return False
        if process.environ().get(DIRECTORY_VARIABLE) == str(self.directory.resolve()):
            return True
        # A process that was forked and not started shows the environment of a template.
        in_group = os.getpgid(process.pid) == self.number
        return in_group and Path(process.cwd()).is_relative_to(self.directory)


def read_group(directory: Path) -> Group | None:
    """The group on record in a machine's directory; None if there is none, or nothing readable."""
    numbers = _read(directory / "pid").split()
    if len(numbers) != 2 or not all(number.isdigit() for number in numbers):
        return None
    return Group(directory, int(numbers[0]), int(numbers[1]))


def read_exit_code(directory: Path) -> int | None:
    """How the bot's process ended; 128 + n for signal n; None if that is not on record."""
    text = _read(directory / "exit").strip()
    return int(text) if text.isdigit() and int(text) <= 255 else None


def read_tail(directory: Path) -> str:
    """The last lines that the machine printed."""
    try:
        with (directory / "output.log").open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").replace("\0", "").strip()
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
