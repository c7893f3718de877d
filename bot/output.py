"""Keeps what a machine prints, up to a limit, for machines that are processes of one host.

    output.head.log   the first MiB, once there is more
    output.1.log      the MiB before the newest, once there is more than two
    output.log        the newest; its first line says how much was cut before it

A bot prints into a pipe, and its leader moves the output into the files: without a limit, a bot that prints
without end would fill the disk. The pipe is always emptied, even when the disk is full, so that no bot blocks
on its log.

Imports the standard library alone: it runs in each machine's leader.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

SEGMENT_BYTES = 2**20
"""Size of one file; the directory has three at the most."""

NEWEST, BEFORE, HEAD = "output.log", "output.1.log", "output.head.log"

CUT = f"[switchboard: %d bytes were cut between {HEAD} and {BEFORE}]\n"
"""First line of the newest file after a cut; it gives the file's offset in the log."""

_CHUNK = 2**16
_PIPE_BYTES = 2**20
"""The most that a pipe holds, for an unprivileged process (`/proc/sys/fs/pipe-max-size`)."""


class Output:
    """The files of one machine's output. Its methods raise nothing: what cannot be written is dropped and
    counted."""

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
        """Write how much was dropped, if the disk takes it now."""
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
            # Remove whatever the bot put there instead: opening a FIFO would block the leader.
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
    """Wakes a poll when a child has ended or shall end. Create it before the child."""

    def __init__(self) -> None:
        self.shall_end = False
        self.read, self._write = os.pipe()
        os.set_blocking(self.read, False)
        os.set_blocking(self._write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def end(self) -> None:
        """Have the child killed. For a signal handler: the signal interrupts the poll."""
        self.shall_end = True

    def forget(self) -> None:
        """Undo the signal handling, in the child itself."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(self.read)
        os.close(self._write)


def keep(pipe: int, output: Output, pid: int, child: Child) -> int:
    """Move the pipe's output into the files until the process has ended; return its wait status.

    Processes that it left running may still hold the pipe: they are not waited for. Other children are
    reaped.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(child.read, select.POLLIN)
    while (status := _reap(pid)) is None:
        if child.shall_end:
            os.kill(pid, signal.SIGKILL)
        for ready, _ in poll.poll():
            if ready == pipe:
                if data := os.read(pipe, _CHUNK):
                    output.write(data)
                else:
                    poll.unregister(pipe)
                continue
            with contextlib.suppress(BlockingIOError):
                os.read(child.read, _CHUNK)
    _drain(pipe, output)
    output.close()
    return status


def _reap(wanted: int) -> int | None:
    """Reap the children that have ended. Return the wait status of this one, if it is among them."""
    pid = -1
    while pid != 0:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == wanted:
            return status
    return None


def _drain(pipe: int, output: Output) -> None:
    """Take what was printed before the end, and no more: others may go on printing."""
    os.set_blocking(pipe, False)
    left = _PIPE_BYTES
    with contextlib.suppress(BlockingIOError):
        while left > 0 and (data := os.read(pipe, min(left, _CHUNK))):
            output.write(data)
            left -= len(data)
