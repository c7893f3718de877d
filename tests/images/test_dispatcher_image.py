"""The dispatcher's image: what is in it, and how it serves."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.engine import DockerError, Engine
from tests.images.conftest import Build
from tests.images.test_bot_image import CONFINED, MEGABYTE, python, shell
from tests.images.test_layers import layers, tree
from tests.patience import PATIENCE
from tests.ports import free_port

KEY = "a-key-of-the-tests"
SETTINGS = {
    "AGENTS": json.dumps({"echo": {"bot": "/app/bot.py"}}),
    "KEYS": json.dumps(
        [{"name": "tests", "scope": "admin", "hash": f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"}]
    ),
}


@pytest.fixture(scope="module")
def image(build: Build) -> str:
    return build("dispatcher", "--tag", "switchboard-test/dispatcher", REVISION="0123abcd", VERSION="9.8.7")


PLACEMENTS: dict[str, dict[str, Any]] = {
    "dispatcher-aws": {
        "provider": "ecs",
        "region": "eu-central-1",
        "cluster": "bots",
        "subnets": ["subnet-0a1b2c3d"],
        "securityGroups": ["sg-0a1b2c3d"],
        "taskDefinitions": {"echo": "echo:1"},
    },
    "dispatcher-gcp": {
        "provider": "compute-engine",
        "project": "a-project",
        "zones": ["europe-west1-b"],
        "templates": {"echo": "echo-1"},
    },
}
"""The argument `PACKAGES` → a placement whose provider needs these packages."""


@pytest.fixture
def serving(engine: Engine, image: str) -> Iterator[tuple[str, int]]:
    with running(engine, image, SETTINGS) as started:
        yield started


@contextmanager
def running(engine: Engine, image: str, settings: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A dispatcher in a container, read-only but for its volume: the container, and its port on this host."""
    port = free_port()
    environment = [f"--env=SWITCHBOARD_{name}={value}" for name, value in settings.items()]
    started = engine.docker(
        *("run", "--detach", *CONFINED, "--volume", "/data", "--publish", f"127.0.0.1:{port}:7860"),
        *(*environment, image),
    )
    try:
        until(lambda: answers(port, "/healthz"), lambda: engine.docker("logs", started))
        yield started, port
    finally:
        engine.docker("rm", "--force", "--volumes", started)


def placed(packages: str) -> dict[str, str]:
    """Settings with a placement that these packages are for."""
    return SETTINGS | {
        "PLACEMENTS": json.dumps({"cloud": PLACEMENTS[packages]}),
        "MACHINE_URL": "https://dispatcher.example.com",
    }


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def until(reached: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


def test_it_serves_the_page_and_keeps_its_store(engine: Engine, serving: tuple[str, int]) -> None:
    container, port = serving
    assert answers(port, "/readyz")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
        text = page.read().decode()
    script = text.partition('src="')[2].partition('"')[0]
    assert answers(port, f"/{script.removeprefix('/')}")
    assert "switchboard.sqlite" in engine.docker("exec", container, "ls", "/data")


def test_its_health_command_says_what_it_is(engine: Engine, image: str, serving: tuple[str, int]) -> None:
    test = json.loads(engine.docker("inspect", "--format", "{{json .Config.Healthcheck.Test}}", image))
    assert test[0] == "CMD"
    engine.docker("exec", serving[0], *test[1:])
    with pytest.raises(DockerError):
        engine.docker("exec", "--env", "SWITCHBOARD_PORT=1", serving[0], *test[1:])


def test_sigterm_ends_it_in_peace_as_pid_1(engine: Engine, serving: tuple[str, int]) -> None:
    engine.docker("kill", "--signal", "TERM", serving[0])
    assert engine.docker("wait", serving[0], timeout=PATIENCE) == "0"


def test_without_keys_it_does_not_open_itself_to_others(engine: Engine, image: str) -> None:
    with pytest.raises(DockerError, match="keys must be set"):
        engine.docker("run", "--rm", *CONFINED, "--env", f"SWITCHBOARD_AGENTS={SETTINGS['AGENTS']}", image)


def test_nothing_of_bots_but_the_protocol_and_no_tools(engine: Engine, image: str) -> None:
    modules = "pipecat numpy onnxruntime pulumi pip setuptools bot.runtime"
    code = f"import importlib.util as u; print([m for m in '{modules}'.split() if u.find_spec(m)])"
    assert python(engine, image, code) == "[]"
    tools = "cc gcc ld make pip pip3 uv apt dpkg perl git node npm"
    assert shell(engine, image, f"for t in {tools}; do command -v $t; done; true") == ""
    web = shell(engine, image, "ls /opt/switchboard/dispatcher/web")
    assert web == "dist"


def test_its_size_labels_and_user(engine: Engine, image: str) -> None:
    seen = json.loads(engine.docker("inspect", "--format", "{{json .}}", image))
    assert seen["Size"] < 180 * MEGABYTE
    assert seen["Config"]["User"] == "10001:10001"
    assert seen["Config"]["Labels"]["org.opencontainers.image.revision"] == "0123abcd"
    assert seen["Config"]["Labels"]["org.opencontainers.image.version"] == "9.8.7"


def test_it_shares_its_first_layer_with_the_bots(engine: Engine, image: str, bot_image: str) -> None:
    assert layers(engine, image)[0] == layers(engine, bot_image)[0]


@pytest.mark.parametrize("packages", PLACEMENTS)
def test_it_starts_with_a_clouds_placements_when_it_has_their_packages(
    engine: Engine, build: Build, packages: str
) -> None:
    image = build("dispatcher", "--tag", f"switchboard-test/{packages}", PACKAGES=packages)
    with running(engine, image, placed(packages)) as (_, port):
        assert answers(port, "/readyz")
    assert int(engine.docker("inspect", "--format", "{{.Size}}", image)) < 190 * MEGABYTE


@pytest.mark.long
def test_two_builds_give_the_same_layers(engine: Engine, build: Build, image: str, tmp_path) -> None:
    again = build("dispatcher", "--no-cache", context=tree(tmp_path))
    assert layers(engine, again) == layers(engine, image)
