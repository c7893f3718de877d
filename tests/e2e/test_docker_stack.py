"""`make up STACK=docker` with a real Pulumi engine and a real Docker engine, and a call from a browser.

The providers' own executables cannot be had everywhere: the tests' hands do what they would, to the letter
of the inputs that the program gives them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from stacks.engine.drive import Driver
from stacks.engine.find import find
from tests.engine import DockerError, Engine
from tests.ports import free_port
from tests.stacks import hands, stand_in_provider

from .browser import until, visit
from .dispatcher import CHECKOUT

pytestmark = pytest.mark.calls

PREFIX = "switchboard-docker"

ANY_IMAGE = "<any image with a shell>"


class Stack:
    """The stack, up."""

    def __init__(self, engine: Engine, home: Path, base: str) -> None:
        self.engine = engine
        self.url = ""
        self._home = home
        self._overrides: dict[str, Any] = {
            "port": free_port(),
            "docker": {"host": engine.url, "base": base},
        }

    def driver(self, **docker: str) -> Driver:
        """Of the stack, with these keys of its config changed from now on."""
        self._overrides["docker"] |= docker
        return Driver(CHECKOUT, "docker", find, home=self._home, overrides=self._overrides)

    def up(self, **docker: str) -> None:
        self.url = self.driver(**docker).up()["url"].value

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
            until(lambda: self.bots() == [], 60, "the end of the container")

    def exec(self, code: str) -> str:
        """What Python prints in the dispatcher's container."""
        return self.engine.docker("exec", f"{PREFIX}-dispatcher", "/opt/venv/bin/python", "-c", code)

    def sessions(self) -> set[str]:
        """The ids of all that are in the store."""
        return set(
            self.exec(
                "import sqlite3; store = sqlite3.connect('/data/switchboard.sqlite'); "
                "print(*(id for id, in store.execute('SELECT id FROM sessions')))"
            ).split()
        )

    def run(self, commands: str, directory: Path) -> None:
        """Run shell commands as a person does, with this engine."""
        client = Path(hands.CLIENT).parent
        environment = {"PATH": f"{client}:{os.environ['PATH']}", "DOCKER_HOST": self.engine.url}
        subprocess.run(["sh", "-euc", commands], cwd=directory, env=environment, check=True, timeout=120)

    def inspect(self, name: str) -> dict[str, Any]:
        return json.loads(self.engine.docker("inspect", f"{PREFIX}-{name}"))[0]

    def is_healthy(self) -> bool:
        return self.inspect("dispatcher")["State"]["Health"]["Status"] == "healthy"

    def ask_engine(self, method: str, path: str, content: dict[str, Any] | None = None) -> tuple[int, str]:
        """As somebody who has taken over the dispatcher would."""
        code = (
            "import http.client, json, sys; c = http.client.HTTPConnection('engine', 2375, timeout=10); "
            f"c.request({method!r}, {path!r}, {json.dumps(content) if content else None!r}, "
            "{'Content-Type': 'application/json'}); a = c.getresponse(); print(a.status, a.read().decode())"
        )
        status, _, text = self.exec(code).partition(" ")
        return int(status), text


def documented(heading: str, image: str) -> list[str]:
    """The commands of a section of the stack's documentation, a text for each block."""
    section = (CHECKOUT / "docs" / "docker.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    return [re.sub(r"^\$ ", "", block, flags=re.M).replace(ANY_IMAGE, image) for block in blocks]


@pytest.fixture(scope="module")
def stack(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("docker-stack")
    names = {"docker": version("pulumi-docker"), "docker-build": version("pulumi-docker-build")}
    installed = stand_in_provider.install(directory / "bin", directory / "asked", names)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**installed, "STAND_IN_ENGINE": engine.url}.items():
            patch.setenv(name, value)
        for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE"):
            patch.delenv(name, raising=False)
        patch.setenv("PULUMI_HOME", str(directory / "pulumi-home"))
        made = Stack(engine, directory, base_image)
        try:
            made.up()
            yield made
        finally:
            made.driver().destroy()
    left = engine.docker("ps", "--all", "--quiet").split()
    left += engine.docker("network", "ls", "--quiet", "--filter", f"name={PREFIX}").split()
    left += engine.docker("volume", "ls", "--quiet", "--filter", f"name={PREFIX}").split()
    assert left == []


def test_a_browser_talks_with_a_bot(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        (bot,) = stack.bots()
        inspected = json.loads(stack.engine.docker("inspect", bot))[0]
        assert set(inspected["NetworkSettings"]["Networks"]) == {f"{PREFIX}-machines"}
        voice.click("Hang up")
        until(lambda: stack.bots() == [], 60, "the end of the container")


def test_who_has_the_dispatcher_has_not_the_engine(stack: Stack) -> None:
    with pytest.raises(DockerError):
        stack.engine.docker("exec", f"{PREFIX}-dispatcher", "ls", "/var/run/docker.sock")
    assert stack.ask_engine("GET", "/v1.41/info")[0] == 200
    for method, path in (
        ("GET", "/v1.41/version"),
        ("GET", f"/v1.41/containers/{PREFIX}-engine-proxy/logs?stdout=1&stderr=1&follow=0&tail=5"),
        ("POST", f"/v1.41/containers/{PREFIX}-engine-proxy/exec"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/images/create?fromImage=debian"),
    ):
        assert stack.ask_engine(method, path)[0] in (403, 404), path
    # Of the stack, and no machine's.
    status, _ = stack.ask_engine("DELETE", f"/v1.41/containers/{PREFIX}-dispatcher?force=1&v=1")
    assert status == 403
    assert f"{PREFIX}-dispatcher" in stack.containers()
    image = json.loads(
        dict(variable.split("=", 1) for variable in stack.inspect("engine-proxy")["Config"]["Env"])[
            "SWITCHBOARD_PROXY_IMAGES"
        ]
    )[0]
    content = {"Image": image, "HostConfig": {"Privileged": True, "Binds": ["/:/host"]}}
    status, text = stack.ask_engine("POST", f"/v1.41/containers/create?name={PREFIX}-m-1", content)
    assert status == 400
    assert stack.bots() == [], text


def test_nobody_but_the_dispatcher_reaches_the_proxy(stack: Stack) -> None:
    proxy = stack.inspect("engine-proxy")
    (network,) = proxy["NetworkSettings"]["Networks"]
    members = json.loads(stack.engine.docker("network", "inspect", network))[0]["Containers"].values()
    assert {one["Name"] for one in members} == {f"{PREFIX}-engine-proxy", f"{PREFIX}-dispatcher"}
    assert proxy["HostConfig"]["PortBindings"] in ({}, None)
    code = "import socket; socket.create_connection(('198.51.100.1', 443), 2)"
    with pytest.raises(DockerError, match=r"unreachable|timed out"):
        stack.engine.docker("exec", f"{PREFIX}-engine-proxy", "/opt/venv/bin/python", "-c", code)


def test_a_call_outlives_an_upgrade_and_the_next_one_has_the_new_image(
    stack: Stack, browser: Browser, base_image: str
) -> None:
    """A base of another name is another image to the stack, and none that would have to be built."""
    stack.engine.docker("tag", base_image, "switchboard-test/newer-base:1")
    services = ("dispatcher", "engine-proxy")
    before = {name: stack.inspect(name) for name in services}
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        (bot,), (older,) = stack.bots(), stack.images_of_bots()
        stack.up(base="switchboard-test/newer-base:1")
        for name in services:
            after = stack.inspect(name)
            assert after["Id"] != before[name]["Id"]
            assert after["Config"]["Image"] != before[name]["Config"]["Image"]
        assert stack.bots() == [bot]
        assert voice.phase == "live"
        voice.click("Hang up")
        until(lambda: stack.bots() == [], 60, "the end of the container")
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        (newer,) = stack.images_of_bots()
        assert newer != older
        voice.click("Hang up")
        until(lambda: stack.bots() == [], 60, "the end of the container")


def test_a_copy_of_the_store_is_restored_as_documented(
    stack: Stack, browser: Browser, base_image: str, tmp_path: Path
) -> None:
    copy, restore = documented("Backup", base_image)
    kept = stack.sessions()
    assert kept
    stack.run(copy, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"backup.sqlite", "machine-token.key"}
    key = (tmp_path / "machine-token.key").read_bytes()
    stack.call(browser)
    assert len(stack.sessions()) == len(kept) + 1
    stack.exec("import os; os.remove('/data/machine-token.key')")
    stack.run(restore, tmp_path)
    until(stack.is_healthy, 60, "a healthy dispatcher")
    assert stack.sessions() == kept
    restored = stack.exec("print(open('/data/machine-token.key', 'rb').read().hex())")
    assert restored == key.hex()
    # The files are the dispatcher's to write.
    stack.call(browser)
    assert len(stack.sessions()) == len(kept) + 1


def test_a_call_outlives_a_new_dispatcher_and_ends_with_the_stack(stack: Stack, browser: Browser) -> None:
    with visit(browser, stack.url, scripted=True) as voice:
        voice.talk()
        voice.wait_for_sound()
        before = stack.inspect("dispatcher")["Id"]
        assert len(stack.bots()) == 1
        stack.engine.docker("restart", f"{PREFIX}-dispatcher")
        until(stack.is_healthy, 60, "a healthy dispatcher")
        assert stack.inspect("dispatcher")["Id"] == before
        assert len(stack.bots()) == 1
        stack.driver().destroy()
        assert stack.bots() == []
        assert stack.containers("--all") == set()
