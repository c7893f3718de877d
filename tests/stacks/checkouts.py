"""A checkout of a test's own: our program and stacks, with the stand-in as its dispatcher."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from pulumi.automation import PulumiCommand

from stacks.engine.drive import Driver
from stacks.metadata import DIRECTORY as METADATA
from tests.patience import PATIENCE
from tests.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
BEING_COMPILED = shutil.ignore_patterns("*.pyc.*")
"""What other tests are just writing. A copy has the bytecode, or its first processes would compile it all."""

AGENTS = {"echo": {"bot": "bot/agents/echo.py", "env": ["ECHO_KEY"]}}


def until(what: str, condition: Callable[[], bool]) -> None:
    """Wait for other processes to get there."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


class CheckoutCopy:
    """A checkout in a directory that a test may change."""

    def __init__(self, root: Path, engine: PulumiCommand) -> None:
        self.root = root
        self.engine = engine
        self.port = free_port()
        self.lines: list[str] = []
        shutil.copytree(REPOSITORY / "stacks", root / "stacks", ignore=BEING_COMPILED)
        for name in ("Pulumi.yaml", "__main__.py"):
            shutil.copy(REPOSITORY / name, root / name)
        shutil.copytree(REPOSITORY / METADATA, root / METADATA)
        (root / "dispatcher").mkdir()
        (root / "bot" / "agents").mkdir(parents=True)
        for name in (
            *("__init__.py", "addresses.py", "fields.py", "header_secret.py", "image_table.py", "keys.py"),
            *("printable.py", "plugins.py", "settings.py", "standard_webhooks.py", "version.py"),
        ):
            shutil.copy(REPOSITORY / "dispatcher" / name, root / "dispatcher" / name)
        for package in ("domain", "machines", "reserve", "telephony", "transports"):
            shutil.copytree(
                REPOSITORY / "dispatcher" / package, root / "dispatcher" / package, ignore=BEING_COMPILED
            )
        for name in ("__init__.py", "confinement.py", "leader.py", "protocol.py", "versions.py"):
            shutil.copy(REPOSITORY / "bot" / name, root / "bot" / name)
        shutil.copytree(
            REPOSITORY / "dispatcher" / "engine_proxy",
            root / "dispatcher" / "engine_proxy",
            ignore=BEING_COMPILED,
        )
        shutil.copy(Path(__file__).with_name("stand_in.py"), root / "dispatcher" / "__main__.py")
        (root / "bot" / "agents" / "echo.py").write_text("async def bot(runner_args): ...\n")
        self.write_config(port=self.port, agents=AGENTS)

    def add_images(self) -> None:
        """Add what images are built of."""
        shutil.copytree(REPOSITORY / "images", self.root / "images")
        shutil.copy(REPOSITORY / "requirements-node.txt", self.root)
        shutil.copy(REPOSITORY / "bot" / "output.py", self.root / "bot")

    def write_config(self, *, throwaway: bool = True, **values: Any) -> None:
        """Write the stack's config. Its data may go without a word, unless a test is about that."""
        values["throwaway"] = throwaway
        config = {f"switchboard:{key}": value for key, value in values.items()}
        (self.root / "stacks" / "Pulumi.local.yaml").write_text(yaml.safe_dump({"config": config}))

    def fault(self, name: str) -> None:
        (self.root / "fault").write_text(name)

    def driver(self, **overrides: Any) -> Driver:
        return Driver(self.root, "local", lambda: self.engine, overrides=overrides, out=self.lines.append)

    def command(self, *arguments: str, module: str = "stacks.engine") -> subprocess.Popen[str]:
        """Start a module in this checkout as `make` does, with the engine on PATH, in its own session."""
        path = os.pathsep.join([str(Path(self.engine.command).parent), os.environ["PATH"]])
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.root,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def data_dir(self) -> Path:
        return self.root / ".switchboard" / "stacks" / "local" / "dispatcher"

    @property
    def state_dir(self) -> Path:
        return self.root / ".switchboard" / "engine" / "state" / ".pulumi"

    def state(self) -> dict[str, dict[str, Any]]:
        """Name → resource, as the engine wrote it."""
        file = self.state_dir / "stacks" / "switchboard" / "local.json"
        resources = json.loads(file.read_text())["checkpoint"]["latest"].get("resources", [])
        return {resource["urn"].rsplit("::", 1)[-1]: resource for resource in resources}

    def processes(self) -> list[psutil.Process]:
        """Every process that runs the dispatcher of this checkout, whatever a state says."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.root) and "dispatcher" in process.cmdline():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def everything(self) -> list[psutil.Process]:
        """Every living process that has to do with the checkout, by directory, arguments or environment."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                places = [process.cwd(), *words, *process.environ().values()]
                # One that is exiting still has a directory, but no memory and so no words.
                if words and any(str(self.root) in one for one in places):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        return found

    def kill_all(self) -> None:
        for process in self.processes():
            process.kill()
            process.wait(PATIENCE)
