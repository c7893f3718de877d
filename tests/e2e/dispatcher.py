"""A real dispatcher as a subprocess, with a port and a data directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from dispatcher.keys import hash_of, new_key
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.processes import title_of

from .browser import until

CHECKOUT = Path(__file__).resolve().parents[2]
BOTS = Path(__file__).parent / "bots"
OVER = ("ended", "failed")
TEMPLATE_TITLE = "switchboard-template"
"""What a template calls itself once it can fork."""

NO_TLS = False
"""No certificate is looked at here, and to load those of the world takes longer than a request."""

_TESTS_KEY = new_key(public=False)
_TESTS = {"name": "tests", "hash": hash_of(_TESTS_KEY), "scope": "admin"}


def agent(bot: Path, **settings: Any) -> dict[str, Any]:
    """An agent's settings; names as in the stack's config (`startTimeoutSeconds`)."""
    return {"bot": str(bot), **settings}


@dataclass
class Dispatcher:
    """Starts, kills and stops a dispatcher, and tells what it knows and what runs."""

    directory: Path
    agents: dict[str, dict[str, Any]]
    keys: Sequence[dict[str, Any]] = ()
    """Its setting of that name, to which a key of the tests' own is added."""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    helpers: set[psutil.Process] = field(default_factory=set)
    """Processes of the dispatcher's own, such as templates, that must not outlive it."""
    forks: bool = True
    """Whether its machines are forked from templates."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Other settings: the rest of their variables' names, and their values."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.directory / "dispatcher.log"

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SWITCHBOARD_")}
        # Without bytecode each machine would compile Pipecat anew, which no deployment does.
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        return inherited | {
            "SWITCHBOARD_PORT": str(self.port),
            "SWITCHBOARD_DATA_DIR": str(self.directory / "data"),
            "SWITCHBOARD_AGENTS": json.dumps(self.agents),
            "SWITCHBOARD_LOG_LEVEL": "info",
            "SWITCHBOARD_PROCESS_TEMPLATES": str(self.forks),
            "SWITCHBOARD_KEYS": json.dumps([*self.keys, _TESTS] if self.keys else []),
            **{f"SWITCHBOARD_{name}": value for name, value in self.more.items()},
        }

    def start(self) -> None:
        """Start it, and return once it takes calls."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dispatcher"],
                cwd=CHECKOUT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._is_ready, PATIENCE, "a dispatcher that takes calls")

    def _is_ready(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"the dispatcher ended with status {code}:\n{self.log_tail()}"
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2, verify=NO_TLS).status_code == 200
        except httpx.TransportError:
            return False

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def session(self, session_id: str) -> dict[str, Any]:
        """The dispatcher's record of a session."""
        return self.request("GET", f"/sessions/{session_id}")

    def request(self, method: str, path: str) -> dict[str, Any]:
        """The answer to a request by somebody who may do everything."""
        headers = {"Authorization": f"Bearer {_TESTS_KEY}"}
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=PATIENCE, verify=NO_TLS)
        return answer.raise_for_status().json()

    def wait_until_over(self, session_id: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The record of a session once it is closed."""
        until(lambda: self.session(session_id)["state"] in OVER, seconds, f"the end of session {session_id}")
        return self.session(session_id)

    def processes(self) -> list[psutil.Process]:
        """Every process of every machine of this dispatcher, by what they were told at their start."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join(process.info["cmdline"] or [])
            if self.url in words or str(self.directory) in words:
                found.append(process)
        return found

    def bot(self, session_id: str) -> psutil.Process:
        """The process in which the bot of a session runs, once it has begun.

        A machine is on record before its process has the name by which it is found.
        """

        def bots() -> list[psutil.Process]:
            named = [one for one in self.processes() if session_id in " ".join(one.info["cmdline"])]
            # A machine may have a process that waits for the bot's end: the bot is the one without children.
            with contextlib.suppress(psutil.NoSuchProcess):
                return [one for one in named if not one.children()]
            return []

        (bot,) = until(bots, PATIENCE, f"the process of session {session_id}'s bot")
        return bot

    def templates(self) -> list[psutil.Process]:
        """The processes from which this dispatcher forks machines."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children():
            title = title_of(child)
            if "bot.template" in title or title.startswith(TEMPLATE_TITLE):
                found.append(child)
        self.helpers.update(found)
        return found

    def wait_for_templates(self, seconds: float = PATIENCE) -> None:
        """Wait until each agent's machines are forked, where the system can fork them (Linux)."""
        if sys.platform != "linux":
            return
        bots = {settings["bot"] for settings in self.agents.values()}
        until(lambda: self.ready_templates() == len(bots), seconds, "a ready template for each bot file")

    def ready_templates(self) -> int:
        """Count the templates that can fork now."""
        return sum(title_of(process).startswith(TEMPLATE_TITLE) for process in self.templates())

    def end_templates(self) -> None:
        """From here on every machine is started from nothing: a template that died must cost time only."""
        self.wait_for_templates()
        ended = self.templates()
        for process in ended:
            process.kill()
        until(lambda: not _running(ended), PATIENCE, "the end of the templates")

    def wait_until_no_machine(self, seconds: float = PATIENCE) -> None:
        until(lambda: not self.processes(), seconds, "the end of every machine")

    def kill(self) -> None:
        """End it as the system would on running out of memory."""
        assert self.process is not None
        self.templates()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it and every machine, and check that nothing is left."""
        try:
            status = self._terminate()
            if self.processes():
                self._stop_machines()
                self.wait_until_no_machine()
            until(lambda: not _running(self.helpers), PATIENCE, "the end of every template")
            assert status == 0, f"the dispatcher ended with status {status}:\n{self.log_tail()}"
        finally:
            self._destroy()

    def _terminate(self) -> int:
        if self.process is None or self.process.poll() is not None:
            return 0
        self.templates()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def _stop_machines(self) -> None:
        command = [sys.executable, "-m", "dispatcher", "stop-machines"]
        done = subprocess.run(
            command, cwd=CHECKOUT, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"stop-machines ended with status {done.returncode}:\n{said}"

    def _destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for process in [*self.processes(), *_running(self.helpers)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found
