"""Dispatchers that are killed and started again at once, and what they leave in the process table.

A dispatcher is forked from a server that has imported it, and from there on runs `python -m dispatcher`:
fifty starts would else take two minutes of importing, and kills would hit little but imports.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import psutil

import dispatcher.__main__
from dispatcher.machines.process.environment import runtime_path
from tests.ports import free_port
from tests.postgres import die_with_the_parent

HERE = Path(__file__).parent
BOT = HERE / "bots" / "brief.py"
STAND_IN = HERE / "stand_in"

_SERVER = multiprocessing.get_context("forkserver")
# What a dispatcher imports only once it runs takes longer than the rest of its start.
_LATE = (
    "dispatcher.commands",
    "pydantic.v1",
    "uvicorn.loops.auto",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.websockets.auto",
)
_SERVER.set_forkserver_preload(["tests.load.dispatchers", *_LATE])

EXIT_SECONDS = 30.0
"""For a dispatcher that was told to exit; on its own limits it needs 15 at most."""


@dataclass
class Dispatcher:
    """One dispatcher, which may be started again and again.

    Args:
        root: The directory of the test: the births are noted there, for all dispatchers of the test.
        agents: Agent → its settings in the stack's words (`maxSessions`).
        settings: Further settings, by their names in `Settings`.
    """

    root: Path
    agents: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = "dispatcher"
    port: int = field(default_factory=free_port)
    starts: int = 0
    _process: BaseProcess | None = None
    _logged: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """All dispatchers of the test share it."""
        return self.root / "data"

    @property
    def births(self) -> Path:
        """Has a file `<machine id>.<pid>` for every process that has ever imported the bot file."""
        return self.root / "births"

    @property
    def log(self) -> Path:
        return self.root / f"{self.name}.log"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def environment(self) -> dict[str, str]:
        # The machines' packages: our runtime, then the stand-ins, which are found before what is installed.
        packages = f"{runtime_path(Path(self.data) / 'machines')}{os.pathsep}{STAND_IN}"
        common = {"bot": str(BOT), "env": ["PYTHONPATH", "LOAD_BIRTHS"]}
        settings = {
            "port": self.port,
            "data_dir": self.data,
            "agents": {name: common | agent for name, agent in self.agents.items()},
            "keep_machine_dirs": 10_000,
            **self.settings,
        }
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": packages,
            "LOAD_BIRTHS": str(self.births),
            **{f"SWITCHBOARD_{name.upper()}": _written(value) for name, value in settings.items()},
        }

    def start(self) -> None:
        """Start it, and do not wait for it."""
        assert not self.running
        self.births.mkdir(exist_ok=True)
        self.starts += 1
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._run("serve")

    def kill(self) -> None:
        """End it as the system would on running out of memory."""
        assert self._process is not None
        code = self._process.exitcode
        assert code is None, f"the dispatcher had ended by itself with status {code}:\n{self.tail()}"
        self._process.kill()
        self._process.join()

    def terminate(self) -> None:
        """Tell it to exit, and wait for that."""
        assert self._process is not None
        self._process.terminate()
        self._process.join(EXIT_SECONDS)
        code = self._process.exitcode
        assert code == 0, f"after SIGTERM the dispatcher ended with status {code}:\n{self.tail()}"

    def bots_of(self, machine_id: str) -> list[psutil.Process]:
        """The processes that run a machine's bot."""
        born = {int(entry.suffix[1:]) for entry in self.births.glob(f"{machine_id}.*")}
        # A number may have been given to another process meanwhile.
        return _find(lambda process: process.pid in born and machine_id in _words(process))

    def living(self) -> set[str]:
        """The machines of the test whose bot lives."""
        born = {int(entry.suffix[1:]): entry.stem for entry in self.births.iterdir()}
        found = _find(lambda process: process.pid in born and born[process.pid] in _words(process))
        return {born[process.pid] for process in found}

    @contextlib.contextmanager
    def without_descriptors(self) -> Iterator[None]:
        """Keep open what it has open, and let it open nothing more."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (0, limits[1]))
        try:
            yield
        finally:
            process.rlimit(psutil.RLIMIT_NOFILE, limits)

    async def answers(self) -> bool:
        """True if it takes calls."""
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                return (await client.get(f"{self.url}/readyz")).status_code == 200
            except httpx.TransportError:
                return False

    def stop_machines(self) -> None:
        """`python -m dispatcher stop-machines`."""
        stopping = self._run("stop-machines")
        stopping.join(EXIT_SECONDS)
        assert stopping.exitcode == 0, f"stop-machines: status {stopping.exitcode}:\n{self.tail()}"

    @property
    def replica(self) -> str:
        """Name that the process that was started last gives itself; empty as long as it has not said so."""
        said = self.log.read_bytes()[self._logged :].decode(errors="replace")
        served = re.search(r"serving \S+ as replica (\w+)", said)
        return served[1] if served is not None else ""

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def end(self) -> None:
        """Whatever the test came to: leave nothing running."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()
        for process in processes(self.root):
            process.kill()

    def _run(self, command: str) -> BaseProcess:
        # Spelled out for the type checker: a context's Process is a class of its own.
        process = _SERVER.Process(target=_main, args=(command, self.environment(), self.log))
        process.start()
        return process


def _main(command: str, environment: dict[str, str], log: Path) -> None:
    """Be `python -m dispatcher <command>` in this environment."""
    os.setsid()  # Ctrl-C is for the tests
    die_with_the_parent(signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["dispatcher", command]
    sys.exit(dispatcher.__main__.main())


def _written(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def processes(root: Path) -> list[psutil.Process]:
    """Every process of every machine below `root`, and every template: all name a path there or run there."""
    return _find(lambda process: _is_below(process, root))


def _find(wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and wanted(process):
                found.append(process)
        except psutil.Error:
            continue  # it is gone meanwhile
    return found


def _is_below(process: psutil.Process, root: Path) -> bool:
    if str(root) in _words(process):
        return True
    try:
        return process.environ().get("LOAD_BIRTHS", "").startswith(str(root)) or Path(
            process.cwd()
        ).is_relative_to(root)
    except psutil.AccessDenied:  # another user's, so none of ours
        return False


def _words(process: psutil.Process) -> str:
    return " ".join(process.cmdline())
