"""The `process` provider: a machine is a process group on this host, for one developer's laptop.

A machine's directory under `root` is its record, so the truth survives the dispatcher:

    <root>/<machine id>/pid      the ids of the group's leader and of the group
    <root>/<machine id>/exit     the bot's exit status, written by the leader when the bot ended
    <root>/<machine id>/output.log, and two more at the most (see `bot/output.py`)
    <root>/<machine id>/work/    the working directory, with links to the bot file's neighbours
    <root>/<machine id>/tmp/     its TMPDIR

Beside them lies `.cache/<bot file>/`: what the machines of a bot file download, shared by all of them.

The leader (`bot/leader.py`) outlives its bot by a moment: only a parent learns an exit status, and the
dispatcher may not be there. It is nobody's child, so it is the same to a dispatcher that started it and to
one that came later. A recycled pid is never taken for a machine, because the leader carries the machine's id
among its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from bot.protocol import (
    MACHINE_TOKEN_VARIABLE,
    PRIVATE_ARGUMENTS_VARIABLE,
    TRACEPARENT_VARIABLE,
    Launch,
)
from dispatcher.clock import Clock, SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.process.disk import free_room
from dispatcher.machines.process.environment import (
    CACHE,
    PYTHONPATH,
    SOURCE,
    environment_of,
    in_private,
    runtime_path,
    template_environment,
)
from dispatcher.machines.process.groups import (
    LEADER_NAME,
    TAIL_BYTES,
    Group,
    find_groups,
    read_exit_code,
    read_group,
    read_tail,
)
from dispatcher.machines.process.isolation import Isolation, Mode
from dispatcher.machines.process.logs import read_log
from dispatcher.machines.process.templates import REPLY_SECONDS, SUPPORTED, Template
from dispatcher.machines.provider import (
    LOG_BYTES,
    LogPart,
    MachineSpec,
    NoCapacity,
    Preparation,
    Rejected,
    Unreachable,
)

POLL_SECONDS = 0.05
"""Pause between two checks of the group in `stop`; they ask only the local kernel."""

RESTART_SECONDS = 10.0
"""Least time between a template's start and its restart."""

NEVER_RAN_SECONDS = 3600.0
"""Age at which a machine's directory without a record counts as left by a crash."""

FULL = (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
"""Errors for a lack of processes, memory, disk or file descriptors, which may pass."""

OF_ONE_MACHINE = (MACHINE_TOKEN_VARIABLE, TRACEPARENT_VARIABLE, PRIVATE_ARGUMENTS_VARIABLE)
"""Variables that differ between machines of an agent; a template has none of them."""

FORCE_SECONDS = 3.0
"""Time for a leader to kill the bot's processes, before it is killed itself."""


class ProcessProvider:
    """Machines as processes of this host.

    A machine is forked from its bot file's template if one is ready; otherwise it is started from nothing.

    Args:
        root: The directory that holds the machines' directories.
        python: The interpreter that runs the bot.
        keep: Number of directories of gone machines that are kept, for their logs.
        templates: Whether machines are forked from templates, where the system allows it.
        isolation: Isolates machines from each other and from private files.
        private: Paths that no machine may read; by default `root`.
    """

    name = "process"

    settling = timedelta(seconds=REPLY_SECONDS + 1)
    """Time that an abandoned call goes on in its thread: as long as a template may take to answer."""

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        keep: int = 100,
        templates: bool = True,
        isolation: Mode = "auto",
        private: Sequence[Path] = (),
        clock: Clock | None = None,
    ) -> None:
        self._root = root.resolve()
        self._isolation = Isolation(isolation, self._root, private or (self._root,))
        self._python = python
        self._keep = keep
        self._forks = templates and SUPPORTED
        self._clock = clock or SystemClock()
        self._templates: dict[_TemplateKey, Template] = {}

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Start a template for each bot file: its machines then start without the time for imports."""
        if not self._forks:
            return
        self._lay_out_root()
        for preparation in preparations:
            self._start_template(preparation.bot_file, preparation.python, dict(preparation.environment))

    async def close(self) -> None:
        """End the templates. Machines are not touched."""
        while self._templates:
            await asyncio.to_thread(self._templates.popitem()[1].close)

    async def create(self, spec: MachineSpec) -> MachineStatus:
        return await asyncio.to_thread(self._create, spec)

    async def get(self, machine_id: str) -> MachineStatus | None:
        return await asyncio.to_thread(self._look, self._root / machine_id)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine that is not gone. The error for one that cannot be examined comes at
        the end."""
        with _told("the machines"):
            directories = await asyncio.to_thread(self._directories)
            running = await asyncio.to_thread(find_groups)
        # A bot may have removed its directory.
        directories += [one for one in running if one.parent == self._root and one not in directories]
        failed: Unreachable | None = None
        for directory in directories:
            try:
                status = await asyncio.to_thread(self._look, directory, running)
            except Unreachable as error:
                failed = failed or error
                continue
            if status is not None and status.state is not MachineState.gone:
                yield status
        if failed is not None:
            raise failed

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        with _told(f"the log of machine {machine_id}"):
            return await asyncio.to_thread(
                read_log, self._root / machine_id, lines, LOG_BYTES, after, ended=ended
            )

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        with _told(f"machine {machine_id}"):
            group = await asyncio.to_thread(_group, self._root / machine_id)
            if group is None:
                return
            deadline = self._clock.monotonic() + grace.total_seconds()
            await asyncio.to_thread(group.ask)
            while await asyncio.to_thread(group.leads) and self._clock.monotonic() < deadline:
                await self._clock.sleep(POLL_SECONDS)
            # Also if the bot has exited: its remaining processes are stopped with it.
            while await asyncio.to_thread(group.runs):
                late = self._clock.monotonic() >= deadline + FORCE_SECONDS
                await asyncio.to_thread(group.kill if late else group.end)
                await self._clock.sleep(POLL_SECONDS)
            await asyncio.to_thread(free_room, self._root / machine_id)

    # From here on synchronous: files and the process table, off the event loop.

    def _create(self, spec: MachineSpec) -> MachineStatus:
        directory = self._root / spec.id
        known = self._recorded(directory)
        if known is not None:
            return known
        bot_file = Path(spec.bot_file)
        if not bot_file.is_file():
            raise Rejected(f"the bot file {bot_file} does not exist")
        try:
            self._lay_out_root()
            self._prune()
            with _locked(directory):
                # The previous holder of the lock may have created the same machine.
                if (known := self._recorded(directory)) is not None:
                    return known
                work = _lay_out(directory, bot_file)
                self._launch(in_private(spec), directory, work, bot_file)
        except OSError as error:
            if error.errno in FULL:
                raise NoCapacity(f"this host cannot start another process: {error}") from error
            raise Rejected(f"the machine's process cannot be started: {error}") from error
        except ValueError as error:  # a NUL in an argument or variable
            raise Rejected(f"the machine's process cannot be started: {error}") from error
        return MachineStatus(spec.id, MachineState.started)

    def _launch(self, spec: MachineSpec, directory: Path, work: Path, bot_file: Path) -> None:
        environment = environment_of(spec, self._root, work, bot_file)
        python = spec.python or self._python
        launch = Launch(
            machine_id=spec.id,
            directory=str(directory),
            arguments=spec.arguments,
            environment=environment,
            memory_kib=spec.memory_mb * 1024,
            cpu_seconds=math.ceil(spec.cpu * (spec.max_duration.total_seconds() + 60)),
            confinement=self._isolation.confine(directory, python, bot_file, environment),
        )
        template = self._template(spec)
        if template is not None and template.launch(launch):
            return
        if self._recorded(directory) is not None:
            return  # the template died after the fork, and the machine is on record
        order = {
            "command": [python, "-P", "-m", "bot", *spec.arguments],
            "memory_kib": launch.memory_kib,
            "cpu_seconds": launch.cpu_seconds,
            "confinement": asdict(launch.confinement),
        }
        if any("\0" in argument for argument in order["command"]):
            raise ValueError("an argument has a NUL")
        leader = [sys.executable, "-I", "-S", str(SOURCE / "bot" / "leader.py"), LEADER_NAME]
        started = subprocess.run(
            [*leader, spec.id, str(directory)],
            check=False,
            cwd=work,
            env=environment,
            input=json.dumps(order).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if started.returncode != 0:
            why = started.stderr.decode(errors="replace").strip()[-TAIL_BYTES:]
            raise NoCapacity(f"this host cannot start another process: {why}")

    def _template(self, spec: MachineSpec) -> Template | None:
        """Return a ready template for this machine, if any; restart a dead one in the background."""
        environment = {k: v for k, v in spec.whole_environment.items() if k not in OF_ONE_MACHINE}
        template = self._templates.get(_template_key(spec.bot_file, spec.python, environment))
        if template is None or template.ready:
            return template
        recent = self._clock.monotonic() - template.started_at <= RESTART_SECONDS
        if template.dead and not recent:
            template.close()
            self._start_template(spec.bot_file, spec.python, environment)
        return None

    def _start_template(self, bot_file: str, python: str, environment: dict[str, str]) -> None:
        key = _template_key(bot_file, python, environment)
        if (known := self._templates.get(key)) is None or known.dead:
            self._templates[key] = Template(
                python or self._python,
                Path(bot_file),
                template_environment(self._root, Path(bot_file), environment),
                self._root / f"template-{Path(bot_file).stem}.log",
                started_at=self._clock.monotonic(),
            )

    def _look(self, directory: Path, running: Mapping[Path, Group] | None = None) -> MachineStatus | None:
        """Return the machine's status.

        Args:
            running: The result of `find_groups`, which is called only if needed.

        Raises:
            Unreachable: the system failed.
        """
        with _told(f"machine {directory.name}"):
            return _status(directory, _group(directory, running))

    def _recorded(self, directory: Path) -> MachineStatus | None:
        """Return the machine's status by its record alone, without a search of the process table.

        Raises:
            Unreachable: the system failed.
        """
        with _told(f"machine {directory.name}"):
            return _status(directory, read_group(directory))

    def _lay_out_root(self) -> None:
        """Make the root, with a directory that contains the `bot` package and nothing else of the
        checkout."""
        package = runtime_path(self._root) / "bot"
        package.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            package.symlink_to(SOURCE / "bot")

    def _directories(self) -> list[Path]:
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [self._root / name for name in names if name not in (PYTHONPATH, CACHE)]

    def _prune(self) -> None:
        """Delete the oldest directories of machines that are gone, or that never ran."""
        directories = self._directories()
        if len(directories) <= self._keep:
            return
        gone = []
        for directory in directories:
            try:
                status = self._recorded(directory)
            except Unreachable:
                continue
            changed = _changed_at(directory)
            # File times come from the system's clock, not from the injected one.
            never_ran = status is None and time.time() > changed + NEVER_RAN_SECONDS
            if never_ran or (status is not None and status.state is MachineState.gone):
                gone.append((changed, directory))
        gone.sort(reverse=True)
        for _, directory in gone[self._keep :]:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _told(subject: str) -> Iterator[None]:
    """Raise an error of the system as `Unreachable`: it does not say anything about a machine."""
    try:
        yield
    except OSError as error:
        raise Unreachable(f"{subject} cannot be examined: {error}") from error


def _group(directory: Path, running: Mapping[Path, Group] | None = None) -> Group | None:
    """Return the recorded group if its leader lives, else the one in the process table."""
    recorded = read_group(directory)
    if recorded is not None and recorded.leads():
        return recorded
    return (find_groups() if running is None else running).get(directory, recorded)


def _status(directory: Path, group: Group | None) -> MachineStatus | None:
    if group is None:
        return None
    if group.leads() or (read_exit_code(directory) is None and group.runs()):
        return MachineStatus(directory.name, MachineState.started)
    # Read again: the leader writes the exit status just before it exits.
    exit_code = read_exit_code(directory)
    return MachineStatus(directory.name, MachineState.gone, exit_code, read_tail(directory))


_TemplateKey = tuple[str, str, frozenset[tuple[str, str]]]


def _template_key(bot_file: str, python: str, environment: Mapping[str, str]) -> _TemplateKey:
    return bot_file, python, frozenset(environment.items())


def _changed_at(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:  # another create prunes as well
        return 0.0


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock a machine's directory, against other threads and other dispatchers of this host."""
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if _is_still(directory, held):
                yield
                return
        finally:
            os.close(held)


def _is_still(directory: Path, held: int) -> bool:
    """Return True if the directory is still the same: that of a machine that never ran is deleted at some
    time."""
    try:
        return os.path.samestat(os.fstat(held), directory.stat())
    except FileNotFoundError:
        return False


def _lay_out(directory: Path, bot_file: Path) -> Path:
    """Make the machine's directories; a bot finds the files beside it by relative paths."""
    work = directory / "work"
    for entry in directory.iterdir():  # remains of an earlier attempt that never ran
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    work.mkdir()
    (directory / "tmp").mkdir()
    for neighbour in bot_file.parent.iterdir():
        # Bots read their `.env` by its name; other hidden files get no link.
        is_env = neighbour.name == ".env" or neighbour.name.startswith(".env.")
        if is_env or not neighbour.name.startswith("."):
            (work / neighbour.name).symlink_to(neighbour.resolve())
    return work
