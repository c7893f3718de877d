"""Keeps what a machine prints, to a bound, for machines that are processes of one host.

    output.head.log    the first MiB, once there is more
    output.1.log       the MiB before the newest, once there is more than two
    output.log         the newest; its first line says how much was cut before it

A bot prints into a pipe, and its leader moves that into the files: without the bound, a bot that prints
without end filled the disk. The pipe is always emptied, also when the disk takes nothing more, so that no
bot waits for its log.

`python -I -S bot/output.py DIRECTORY COMMAND…` runs a command like this and ends as it did. It imports the
standard library alone: it runs once for each machine without a template.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

SEGMENT_BYTES = 2**20
"""Size of one file; the directory has three at the most."""

NEWEST, BEFORE, HEAD = "output.log", "output.1.log", "output.head.log"

CUT = f"[switchboard: %d bytes were cut between {HEAD} and {BEFORE}]\n"
"""First line of the newest file, where something was cut: it gives the file's place in the log."""

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The whole group gets these; whoever waits for the bot outlives it."""

_CHUNK = 2**16
_PIPE_BYTES = 2**20
"""The most that a pipe holds, for an unprivileged process (`/proc/sys/fs/pipe-max-size`)."""


class Output:
    """The files of one machine's output. Raises nothing: what cannot be written is dropped and counted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1
        self._size = 0
        self._total = 0
        self._segments = 0
        self._lost = 0
        self._open(os.O_NOFOLLOW)

    def write(self, data: bytes) -> None:
        """Append to the newest file, and begin another one when it is full."""
        while data:
            room = SEGMENT_BYTES - self._size
            if room <= 0:
                self._rotate()
                continue
            part, data = data[:room], data[room:]
            self._append(part)
            self._size += len(part)
            self._total += len(part)

    def close(self) -> None:
        """Say what the disk did not take, if it does now."""
        if self._lost:
            self._append(f"\n[switchboard: {self._lost} bytes could not be written]\n".encode())
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, part: bytes) -> None:
        view = memoryview(part)
        with contextlib.suppress(OSError):  # a full disk
            while view and self._file >= 0:
                view = view[os.write(self._file, view) :]
        self._lost += len(view)

    def _rotate(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._segments += 1
        with contextlib.suppress(OSError):  # the bot took it away, or put a directory there
            newest = self._directory / NEWEST
            newest.replace(self._directory / (HEAD if self._segments == 1 else BEFORE))
        with contextlib.suppress(OSError):
            # Remove what the bot put there instead: a FIFO would keep its leader.
            (self._directory / NEWEST).unlink(missing_ok=True)
        self._open(os.O_EXCL)
        self._size = 0
        if (cut := self._total - 2 * SEGMENT_BYTES) > 0:
            self._append((CUT % cut).encode())

    def _open(self, how: int) -> None:
        how |= os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            self._file = os.open(self._directory / NEWEST, how, 0o600)


class Child:
    """Tells that a child has ended, to a poll. Make it before the child."""

    def __init__(self) -> None:
        self.read, self._write = os.pipe()
        os.set_blocking(self.read, False)
        os.set_blocking(self._write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def forget(self) -> None:
        """Undo it, in the child itself."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.read)
        os.close(self._write)


def keep(pipe: int, output: Output, pid: int, child: Child) -> int:
    """Move what comes through the pipe into the files until the process has ended; return its wait status.

    What the process left running may still hold the pipe: nobody waits for that.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(child.read, select.POLLIN)
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended:
        for ready, _ in poll.poll():
            if ready == pipe:
                if data := os.read(pipe, _CHUNK):
                    output.write(data)
                else:
                    poll.unregister(pipe)
                continue
            with contextlib.suppress(BlockingIOError):
                os.read(child.read, _CHUNK)
            ended, status = os.waitpid(pid, os.WNOHANG)
    _drain(pipe, output)
    output.close()
    return status


def _drain(pipe: int, output: Output) -> None:
    """Take what was printed before the end, and no more than that: others may go on printing."""
    os.set_blocking(pipe, False)
    left = _PIPE_BYTES
    with contextlib.suppress(BlockingIOError):
        while left > 0 and (data := os.read(pipe, min(left, _CHUNK))):
            output.write(data)
            left -= len(data)


def main() -> NoReturn:
    """Run the command, keep what it prints, and exit with its status; 128 + n for signal n."""
    directory, command = Path(sys.argv[1]), sys.argv[2:]
    for number in FORWARDED:  # a handler is not inherited by the command, and ignoring would be
        signal.signal(number, lambda *_: None)
    read, write = os.pipe()
    output, child = Output(directory), Child()
    pid = os.fork()
    if pid == 0:
        _run(command, write)
    os.close(write)
    status = os.waitstatus_to_exitcode(keep(read, output, pid, child))
    os._exit(status if status >= 0 else 128 - status)


def _run(command: list[str], write: int) -> NoReturn:
    try:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.execv(command[0], command)  # noqa: S606 - without a shell, and as the provider says
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    os._exit(127)


if __name__ == "__main__":
    main()
