"""The `process` provider: a machine is a process group on this host, for one developer's laptop.

A machine's directory under `root` is its record, so the truth survives the dispatcher:

    <root>/<machine id>/pid      the ids of the group's leader and of the group
    <root>/<machine id>/exit     the bot's exit status, written by the leader when the bot ended
    <root>/<machine id>/output.log
    <root>/<machine id>/work/    the working directory, with links to the bot file's neighbours

The leader is a small shell that outlives its bot by a moment: only a parent learns an exit status, and the
dispatcher may not be there. A recycled pid is never taken for a machine, because the leader carries
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
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil

from bot.protocol import BOT_FILE_VARIABLE, Launch
from dispatcher.clock import Clock, SystemClock
from dispatcher.machines import templates
from dispatcher.machines.provider import (
    MachineSpec,
    MachineState,
    MachineStatus,
    NoCapacity,
    Rejected,
)
from dispatcher.machines.templates import Template

SOURCE = Path(__file__).resolve().parents[2]
"""Where the `bot` package lies."""

POLL_SECONDS = 0.05
"""How often `stop` looks whether the group is gone; nobody but our own kernel is asked."""

TAIL_BYTES = 2000
"""How much of a machine's output goes into its last status: a traceback's worth."""

LEADER_NAME = "switchboard-machine"

# The outer shell only starts the leader and writes down its pid: the leader is nobody's child, so it is
# the same to a dispatcher that started it and to one that came later. RLIMIT_DATA counts a process's
# private writable memory (Linux 4.7 and later); RLIMIT_AS would count the gigabytes that runtimes reserve
# and never touch. A limit that the system refuses is left out. The traps keep the leader alive through a
# signal to the group; a handler is not inherited by the bot.
LAUNCH = """
machine_dir=$2; memory_kib=$3; cpu_seconds=$4; shift 4
{
    trap : TERM INT HUP
    ulimit -c 0
    ulimit -d "$memory_kib" 2>/dev/null
    ulimit -t "$cpu_seconds" 2>/dev/null
    "$@"
    echo $? > "$machine_dir/exit"
} &
echo "$! $$" > "$machine_dir/pid"
"""


@dataclass(frozen=True, slots=True)
class _Record:
    """Two process ids: of the machine's leader, and of its process group."""

    leader: int
    group: int


class ProcessProvider:
    """Machines as processes of this host.

    A machine is forked from its bot file's template where one is ready, and else started from nothing.

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
        self._templates: dict[str, Template] = {}

    async def prepare(self, images: Iterable[str]) -> None:
        """Start a template for each bot file: machines of it then start without their imports' time."""
        if not templates.SUPPORTED:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        for image in set(images) - self._templates.keys():
            bot_file = Path(image)
            environment = _base_environment(cpu=1.0)
            log_file = self._root / f"template-{bot_file.stem}.log"
            self._templates[image] = Template(self._python, bot_file, environment, log_file)

    async def close(self) -> None:
        """End the templates. Machines are not touched."""
        while self._templates:
            await asyncio.to_thread(self._templates.popitem()[1].close)

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
        record = _read_record(directory)
        if record is None or not _runs(record, directory):
            return
        deadline = self._clock.now() + grace.total_seconds()
        _signal_group(record, signal.SIGTERM)
        while _runs(record, directory):
            # A leader that is gone has left members of its group behind: nobody waits for those.
            if not _leads(record, directory) or self._clock.now() >= deadline:
                _signal_group(record, signal.SIGKILL)
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
            self._launch(spec, directory, work, bot_file)
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE):
                raise NoCapacity(f"this host cannot start another process: {error}") from error
            raise Rejected(f"the machine's process cannot be started: {error}") from error
        return MachineStatus(spec.id, MachineState.started)

    def _launch(self, spec: MachineSpec, directory: Path, work: Path, bot_file: Path) -> None:
        environment = _environment(spec, work, bot_file)
        memory_kib = spec.memory_mb * 1024
        cpu_seconds = math.ceil(spec.cpu * (spec.max_duration.total_seconds() + 60))
        template = self._templates.get(spec.image)
        if template is not None and template.ready:
            launch = Launch(
                machine_id=spec.id,
                directory=str(directory),
                arguments=spec.arguments,
                environment=environment,
                memory_kib=memory_kib,
                cpu_seconds=cpu_seconds,
            )
            template.launch(launch)
            return
        shell = ["/bin/sh", "-c", LAUNCH, LEADER_NAME, spec.id, str(directory)]
        bot = [self._python, "-P", "-m", "bot", *spec.arguments]
        with (directory / "output.log").open("ab") as output:
            subprocess.run(
                [*shell, str(memory_kib), str(cpu_seconds), *bot],
                check=True,
                cwd=work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _status(self, directory: Path) -> MachineStatus | None:
        record = _read_record(directory)
        if record is None:
            return None
        exit_code = _read_exit(directory)
        if exit_code is None and _runs(record, directory):
            return MachineStatus(directory.name, MachineState.started)
        # Read again: the leader writes the exit status just before it goes.
        exit_code = _read_exit(directory)
        return MachineStatus(directory.name, MachineState.gone, exit_code, _tail(directory / "output.log"))

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
    shutil.rmtree(directory, ignore_errors=True)  # what an earlier attempt left that never ran
    work.mkdir(parents=True)
    (directory / "tmp").mkdir()
    for neighbour in bot_file.parent.iterdir():
        if not neighbour.name.startswith("."):
            (work / neighbour.name).symlink_to(neighbour.resolve())
    return work


def _environment(spec: MachineSpec, work: Path, bot_file: Path) -> dict[str, str]:
    """A clean environment: what Python needs, and what the agent's config names."""
    return {
        **_base_environment(spec.cpu),
        "HOME": str(work),
        "TMPDIR": str(work.parent / "tmp"),
        BOT_FILE_VARIABLE: str(bot_file.resolve()),
        **spec.environment,
    }


def _base_environment(cpu: float) -> dict[str, str]:
    threads = str(max(1, math.ceil(cpu)))
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(SOURCE),
        "PYTHONUNBUFFERED": "1",
        # Numeric libraries otherwise start a thread per core of the host, whatever the machine's size.
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
    }


def _read_record(directory: Path) -> _Record | None:
    try:
        numbers = (directory / "pid").read_text().split()
    except FileNotFoundError:
        return None
    return _Record(int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else None


def _read_exit(directory: Path) -> int | None:
    try:
        text = (directory / "exit").read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text else None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _runs(record: _Record, directory: Path) -> bool:
    return _leads(record, directory) or _left_members(record, directory)


def _leads(record: _Record, directory: Path) -> bool:
    """Whether the machine's leader lives; another process with its recycled pid has other arguments."""
    try:
        leader = psutil.Process(record.leader)
        # A leader from a template shows its title in one piece.
        words = " ".join(leader.cmdline()).split()
        return leader.status() != psutil.STATUS_ZOMBIE and directory.name in words
    except psutil.Error:
        return False


def _left_members(record: _Record, directory: Path) -> bool:
    """Whether a process of the machine's group still works in the machine's directory."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) != record.group or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if Path(process.cwd()).is_relative_to(directory):
                return True
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return False


def _signal_group(record: _Record, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(record.group, number)
