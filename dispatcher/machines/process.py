"""The `process` provider: a machine is a process group on this host, for one developer's laptop.

A machine's directory under `root` is its record, so the truth survives the dispatcher:

    <root>/<machine id>/pid      the group's leader, written by the leader itself
    <root>/<machine id>/exit     the bot's exit status, written by the leader when the bot ended
    <root>/<machine id>/output.log
    <root>/<machine id>/work/    the working directory, with links to the bot file's neighbours

The leader is a small shell that outlives its bot by a moment: only a parent can know an exit status, and
the dispatcher may not be there. A recycled pid is never taken for a machine, because the leader carries
the machine's id among its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil

from bot.protocol import BOT_FILE_VARIABLE
from dispatcher.clock import Clock, SystemClock
from dispatcher.machines.provider import (
    MachineSpec,
    MachineState,
    MachineStatus,
    NoCapacity,
    Rejected,
)

SOURCE = Path(__file__).resolve().parents[2]
"""Where the `bot` package lies."""

POLL_SECONDS = 0.05
"""How often `stop` looks whether the group is gone; nobody but our own kernel is asked."""

LEADER_NAME = "switchboard-machine"

# RLIMIT_DATA counts a process's private writable memory (Linux 4.7 and later); RLIMIT_AS would count the
# gigabytes that runtimes reserve and never touch. A limit that the system refuses is left out.
# The traps keep the shell alive through a signal to the group; a handler is not inherited by the bot.
LEADER = """
machine_dir=$2; memory_kib=$3; cpu_seconds=$4; shift 4
echo $$ > "$machine_dir/pid"
ulimit -c 0
ulimit -d "$memory_kib" 2>/dev/null
ulimit -t "$cpu_seconds" 2>/dev/null
trap : TERM INT HUP
"$@"
echo $? > "$machine_dir/exit"
"""


class ProcessProvider:
    """Machines as processes of this host.

    Args:
        root: The directory that holds the machines' directories.
        python: The interpreter that runs the bot.
        keep: How many directories of machines that are gone are kept, for their logs.
    """

    name = "process"

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        keep: int = 100,
        clock: Clock | None = None,
    ) -> None:
        self._root = root.resolve()
        self._python = python
        self._keep = keep
        self._clock = clock or SystemClock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def create(self, spec: MachineSpec) -> MachineStatus:
        return await asyncio.to_thread(self._create, spec)

    async def get(self, machine_id: str) -> MachineStatus | None:
        return self._status(self._root / machine_id)

    async def list(self) -> AsyncIterator[MachineStatus]:
        for directory in self._directories():
            status = self._status(directory)
            if status is not None and status.state is not MachineState.gone:
                yield status

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        directory = self._root / machine_id
        deadline = self._clock.now() + grace.total_seconds()
        _signal_group(self._group(directory), signal.SIGTERM)
        while (group := self._group(directory)) is not None:
            # A leader that is gone has left members of its group behind: nobody waits for those.
            if self._leader(directory) is None or self._clock.now() >= deadline:
                _signal_group(group, signal.SIGKILL)
            await self._clock.sleep(POLL_SECONDS)

    # What follows is synchronous and quick: files and the process table.

    def _create(self, spec: MachineSpec) -> MachineStatus:
        directory = self._root / spec.id
        known = self._status(directory)
        if known is not None:
            return known
        bot_file = Path(spec.image)
        if not bot_file.is_file():
            raise Rejected(f"the bot file {bot_file} does not exist")
        self._prune()
        try:
            work = _lay_out(directory, bot_file)
            with (directory / "output.log").open("ab") as output:
                self._children[spec.id] = self._spawn(spec, directory, work, bot_file, output.fileno())
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE):
                raise NoCapacity(f"this host cannot start another process: {error}") from error
            raise Rejected(f"the machine's process cannot be started: {error}") from error
        return MachineStatus(spec.id, MachineState.started)

    def _spawn(
        self, spec: MachineSpec, directory: Path, work: Path, bot_file: Path, output: int
    ) -> subprocess.Popen[bytes]:
        cpu_seconds = math.ceil(spec.cpu * (spec.max_duration.total_seconds() + 60))
        leader = ["/bin/sh", "-c", LEADER, LEADER_NAME, spec.id, str(directory)]
        limits = [str(spec.memory_mb * 1024), str(cpu_seconds)]
        bot = [self._python, "-P", "-m", "bot", *spec.arguments]
        return subprocess.Popen(
            [*leader, *limits, *bot],
            cwd=work,
            env=_environment(spec, work, bot_file),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def _status(self, directory: Path) -> MachineStatus | None:
        if not directory.is_dir():
            return None
        machine_id = directory.name
        child = self._children.get(machine_id)
        if child is not None and child.poll() is None:
            return MachineStatus(machine_id, MachineState.started)
        self._children.pop(machine_id, None)
        if self._group(directory) is not None:
            return MachineStatus(machine_id, MachineState.started)
        return MachineStatus(machine_id, MachineState.gone, _read_int(directory / "exit"))

    def _group(self, directory: Path) -> int | None:
        """The id of the machine's process group, if any of it runs."""
        leader = self._leader(directory)
        if leader is not None:
            return leader.pid
        pid = _read_int(directory / "pid")
        return pid if pid is not None and _group_is_ours(pid, directory) else None

    def _leader(self, directory: Path) -> psutil.Process | None:
        """The group's leader if it lives, whoever its parent is."""
        child = self._children.get(directory.name)
        if child is not None:
            child.poll()  # reaps it, so that a zombie is not taken for a living one
        pid = child.pid if child is not None else _read_int(directory / "pid")
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or _carries(process, directory.name) is False:
                return None
        except psutil.Error:
            return None
        return process

    def _directories(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [entry for entry in self._root.iterdir() if entry.is_dir()]

    def _prune(self) -> None:
        """Delete the oldest directories of machines that are gone."""
        directories = self._directories()
        if len(directories) <= self._keep:
            return
        gone = []
        for directory in directories:
            status = self._status(directory)
            if status is not None and status.state is MachineState.gone:
                gone.append(directory)
        gone.sort(key=lambda directory: directory.stat().st_mtime, reverse=True)
        for directory in gone[self._keep :]:
            shutil.rmtree(directory, ignore_errors=True)


def _lay_out(directory: Path, bot_file: Path) -> Path:
    """Make the machine's directories; bots that read a file beside them by a relative path find it."""
    work = directory / "work"
    work.mkdir(parents=True)
    (directory / "tmp").mkdir()
    for neighbour in bot_file.parent.iterdir():
        if not neighbour.name.startswith("."):
            (work / neighbour.name).symlink_to(neighbour.resolve())
    return work


def _environment(spec: MachineSpec, work: Path, bot_file: Path) -> dict[str, str]:
    """A clean environment: what Python needs, and what the agent's config names."""
    threads = str(max(1, math.ceil(spec.cpu)))
    return {
        "PATH": os.defpath,
        "HOME": str(work),
        "TMPDIR": str(work.parent / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(SOURCE),
        "PYTHONUNBUFFERED": "1",
        # Numeric libraries otherwise start a thread per core of the host, whatever the machine's size.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        BOT_FILE_VARIABLE: str(bot_file.resolve()),
        **spec.environment,
    }


def _signal_group(group: int | None, number: signal.Signals) -> None:
    if group is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)


def _read_int(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text else None


def _carries(process: psutil.Process, machine_id: str) -> bool:
    arguments = process.cmdline()
    # A child between fork and exec still shows its parent's arguments.
    return machine_id in arguments or process.ppid() == os.getpid()


def _group_is_ours(group: int, directory: Path) -> bool:
    """Whether a process of this group works in the machine's directory, now that its leader is gone."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and Path(process.cwd()).is_relative_to(directory):
                return True
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return False
