"""The `docker` stack with a real Pulumi engine and a real Docker engine.

The providers' own executables cannot be had everywhere: the tests' hands do what they would, to the letter
of the inputs that the program gives them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from dispatcher.firewall.expressions import Family
from dispatcher.firewall.netlink import Nftables
from stacks.engine.drive import Driver
from stacks.engine.find import find
from tests.engine import Engine
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.stacks import hands, stand_in_provider

from .browser import until, visit
from .dispatcher import CHECKOUT

PREFIX = "switchboard-docker"


class Stack:
    """The stack, up."""

    def __init__(self, engine: Engine, home: Path, config: dict[str, Any]) -> None:
        self.engine = engine
        self.url = ""
        self._home = home
        docker = {"host": engine.url, **config.get("docker", {})}
        self._overrides: dict[str, Any] = {
            "port": free_port(),
            "throwaway": True,
            **config,
            "docker": docker,
        }

    def driver(self, **docker: Any) -> Driver:
        """Return the stack's driver, with these keys of its config changed from now on."""
        self._overrides["docker"] |= docker
        return Driver(CHECKOUT, "docker", find, home=self._home, overrides=self._overrides)

    def up(self, **docker: Any) -> None:
        self.url = self.driver(**docker).up()["url"].value

    def change(self, **config: Any) -> None:
        """Bring the stack up with these keys of its config changed from now on."""
        self._overrides |= config
        self.up()

    def containers(self, *arguments: str) -> set[str]:
        return set(self.engine.docker("ps", *arguments, "--format", "{{.Names}}").split())

    def bots(self) -> list[str]:
        return self.engine.docker(
            "ps", "--all", "--quiet", "--filter", f"label=switchboard.deployment={PREFIX}"
        ).split()

    def images_of_bots(self) -> set[str]:
        return {self.engine.docker("inspect", "--format", "{{.Config.Image}}", bot) for bot in self.bots()}

    def call(self, browser: Browser) -> None:
        """A call from its begin to its end."""
        with visit(browser, self.url, scripted=True) as voice:
            voice.talk()
            voice.click("Hang up")
            until(lambda: self.bots() == [], PATIENCE, "the end of the container")

    def exec(self, code: str) -> str:
        """Run Python in the dispatcher's container; return what it prints."""
        return self.engine.docker("exec", f"{PREFIX}-dispatcher", "/opt/venv/bin/python", "-c", code)

    def sessions(self) -> set[str]:
        """The ids of all that are in the store."""
        return set(
            self.exec(
                "import sqlite3; store = sqlite3.connect('/data/switchboard.sqlite'); "
                "print(*(id for id, in store.execute('SELECT id FROM sessions')))"
            ).split()
        )

    def last_end(self) -> tuple[str, str] | None:
        """State and reason of the session that came last; None if it is not over."""
        last = "SELECT state, reason FROM sessions ORDER BY created_at DESC LIMIT 1"
        store = "sqlite3.connect('/data/switchboard.sqlite')"
        code = f"import sqlite3; print(*{store}.execute({last!r}).fetchone())"
        state, reason = self.exec(code).split()
        return None if reason == "None" else (state, reason)

    def images(self) -> dict[str, dict[str, str]]:
        """The table of agents' images that the dispatcher was handed."""
        return json.loads(self.exec("print(open('/data/images.json').read())"))

    def run(self, commands: str, directory: Path) -> None:
        """Run shell commands as a person does, with this engine."""
        client = Path(hands.CLIENT).parent
        environment = {"PATH": f"{client}:{os.environ['PATH']}", "DOCKER_HOST": self.engine.url}
        subprocess.run(["sh", "-euc", commands], cwd=directory, env=environment, check=True, timeout=PATIENCE)

    def inspect(self, name: str) -> dict[str, Any]:
        return json.loads(self.engine.docker("inspect", f"{PREFIX}-{name}"))[0]

    def is_healthy(self) -> bool:
        return self.inspect("dispatcher")["State"]["Health"]["Status"] == "healthy"

    def ask_engine(self, method: str, path: str, content: dict[str, Any] | None = None) -> tuple[int, str]:
        """Ask the engine as somebody who has taken over the dispatcher would."""
        code = (
            "import http.client, json, sys; c = http.client.HTTPConnection('engine', 2375, timeout=10); "
            f"c.request({method!r}, {path!r}, {json.dumps(content) if content else None!r}, "
            "{'Content-Type': 'application/json'}); a = c.getresponse(); print(a.status, a.read().decode())"
        )
        status, _, text = self.exec(code).partition(" ")
        return int(status), text


def has_tables() -> bool:
    """Return True if the host has the rules of the stack's firewall."""
    kernel = Nftables()
    try:
        found = {kernel.has(family, PREFIX) for family in Family}
    finally:
        kernel.close()
    assert len(found) == 1, "one of two tables"
    return found.pop()


@contextmanager
def stack_up(engine: Engine, directory: Path, **config: Any) -> Iterator[Stack]:
    """A stack with these keys of its config, up while this is entered; nothing of it is left.

    Args:
        directory: For the state and the files of its engine.
    """
    names = {"docker": version("pulumi-docker"), "docker-build": version("pulumi-docker-build")}
    installed = stand_in_provider.install(directory / "bin", directory / "asked", names)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**installed, "STAND_IN_ENGINE": engine.url}.items():
            patch.setenv(name, value)
        for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE"):
            patch.delenv(name, raising=False)
        patch.setenv("PULUMI_HOME", str(directory / "pulumi-home"))
        made = Stack(engine, directory, config)
        try:
            made.up()
            yield made
        finally:
            made.driver().destroy()
    left = engine.docker("ps", "--all", "--quiet").split()
    left += engine.docker("network", "ls", "--quiet", "--filter", f"name={PREFIX}").split()
    left += engine.docker("volume", "ls", "--quiet", "--filter", f"name={PREFIX}").split()
    assert left == []
    assert not has_tables()
