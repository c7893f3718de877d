"""Containers under test: of a real engine, with a bot that does what its arguments say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from dispatcher.engine_proxy.settings import ProxySettings
from dispatcher.machines.container.provider import ContainerProvider
from dispatcher.machines.container.request import DEPLOYMENT_LABEL, MACHINE_LABEL
from dispatcher.machines.provider import MachineSpec
from tests.contracts.harness import Harness
from tests.contracts.hostile import Harm
from tests.contracts.mixed_up_engine import MixedUpEngine
from tests.engine import Engine
from tests.patience import PATIENCE
from tests.podman import Podman
from tests.ports import free_port
from tests.rootless import Rootless

T = TypeVar("T")

DEPLOYMENT = "contract"

# In the place of a bot: does what its arguments say.
BOT = """
import json, os, sys, time
if file := os.environ.pop("SWITCHBOARD_VARIABLES_FILE", ""):
    os.environ.update(json.load(open(file)))
    os.unlink(file)
word, value = sys.argv[1:]
if word == "run":
    exec(value)
    sys.exit(0)
if word == "exit":
    print("as I was told")
    sys.exit(int(value))
time.sleep(float(value))
"""

DOCKERFILE = """
ARG BASE
FROM $BASE
RUN ln -s /usr/bin/python3 /usr/local/bin/python
COPY bot.py /stub/bot/__main__.py
ENV PYTHONPATH=/stub
LABEL switchboard.reads-variables-file=true
WORKDIR /app
"""


@pytest.fixture(scope="session")
def stub_image(engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with a bot that sleeps, exits or runs code, as its arguments say."""
    context = _stub_in(tmp_path_factory.mktemp("stub"))
    return engine.build("--build-arg", f"BASE={base_image}", "--tag", "stub:latest", str(context))


def _stub_in(context: Path) -> Path:
    (context / "bot.py").write_text(BOT)
    (context / "Dockerfile").write_text(DOCKERFILE)
    return context


class AnyContainers(Harness):
    """Containers of an engine that speaks Docker's API.

    Args:
        docker: Runs Docker's client against it.
        server: What the provider's calls go through.
        url: Where the provider finds its engine, if that is not `server` itself.
    """

    deadline_kept_by = "provider"
    patience = 60.0

    def __init__(
        self,
        docker: Callable[..., str],
        server: MixedUpEngine,
        image: str,
        *,
        url: str | None = None,
        deployment: str = DEPLOYMENT,
    ) -> None:
        self._docker = docker
        self._server = server
        self.url = url or server.url
        self.image = image
        self._deployment = deployment
        self._made: list[ContainerProvider] = []
        self._harm = Harm()
        self._runner = asyncio.Runner()

    def provider(self) -> ContainerProvider:
        made = ContainerProvider(url=self.url, deployment=self._deployment, late=timedelta(0))
        self._made.append(made)
        return made

    def neighbour(self) -> AnyContainers:
        made = AnyContainers(self._docker, self._server, self.image, deployment="neighbour")
        # One list, which is closed with this one.
        made._made = self._made
        return made

    @contextlib.contextmanager
    def filtering_nothing(self) -> Iterator[None]:
        self._server.filters = False
        try:
            yield
        finally:
            self._server.filters = True

    @contextlib.contextmanager
    def answering(self, asked: str, shown: str) -> Iterator[None]:
        name = f"{self._deployment}-{asked}"
        self._server.mixed_up[name] = f"{self._deployment}-{shown}"
        try:
            yield
        finally:
            del self._server.mixed_up[name]

    def spec(
        self, machine_id: str, *, exits: int | None = None, deadline: float | None = None
    ) -> MachineSpec:
        return MachineSpec(
            id=machine_id,
            bot_file="bot.py",
            arguments=("sleep", "600") if exits is None else ("exit", str(exits)),
            environment={"SWITCHBOARD_MACHINE_TOKEN": "token"},
            cpu=0.5,
            memory_mb=64,
            max_duration=timedelta(seconds=3600.0 if deadline is None else deadline),
            image=self.image,
        )

    def flooding(self, machine_id: str, unit: str) -> MachineSpec:
        code = f"while True: sys.stdout.write({unit!r} * 1000)"
        return replace(self.spec(machine_id), arguments=("run", code))

    def hostile(self, machine_id: str) -> MachineSpec:
        return replace(self.spec(machine_id), arguments=("run", self._harm.code(machine_id)))

    async def harms(self, machine_id: str) -> bool:
        return await asyncio.to_thread(self._harm.is_there, machine_id)

    async def running(self) -> list[str]:
        found = await asyncio.to_thread(
            self._docker,
            *("ps", "--filter", f"label={DEPLOYMENT_LABEL}={self._deployment}"),
            *("--format", f'{{{{.Label "{MACHINE_LABEL}"}}}}'),
        )
        return found.split()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(self._and_close(work))

    async def _and_close(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            while self._made:
                await self._made.pop().close()

    def close(self) -> None:
        self._runner.close()
        containers = self._docker("ps", "--all", "--quiet", "--filter", f"label={DEPLOYMENT_LABEL}").split()
        if containers:
            self._docker("rm", "--force", *containers)

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Containers(AnyContainers):
    """Containers of the tests' engine."""

    def __init__(self, engine: Engine, server: MixedUpEngine, image: str, url: str | None = None) -> None:
        super().__init__(engine.docker, server, image, url=url)
        self.engine = engine


@pytest.fixture(scope="session")
def mixed_up_engine(engine: Engine) -> Iterator[MixedUpEngine]:
    with MixedUpEngine(engine.socket, engine.directory / "mixed-up.sock").serving() as server:
        yield server


@pytest.fixture
def containers(engine: Engine, mixed_up_engine: MixedUpEngine, stub_image: str) -> Iterator[Containers]:
    harness = Containers(engine, mixed_up_engine, stub_image)
    yield harness
    harness.close()


@pytest.fixture(scope="module")
def stub_of_podman(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the stub image by Podman. `localhost` is how Podman says that it is of no registry."""
    name, context = "localhost/stub:latest", _stub_in(tmp_path_factory.mktemp("stub"))
    base = "localhost/switchboard-test/base:1"
    podman.podman("build", "--network", "host", "--build-arg", f"BASE={base}", "--tag", name, str(context))
    return name


@pytest.fixture
def containers_of_podman(podman: Podman, stub_of_podman: str, tmp_path: Path) -> Iterator[AnyContainers]:
    behind = Path(podman.url.removeprefix("unix://"))
    with MixedUpEngine(behind, tmp_path / "mixed-up.sock").serving() as server:
        harness = AnyContainers(podman.docker, server, stub_of_podman)
        # Podman 4.3 takes longer than the provider waits to find the beginning of such a line.
        harness.reads_endless_lines = False
        yield harness
        harness.close()


@pytest.fixture(scope="module")
def rootless_stub(rootless: Rootless, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the stub image by an engine without root."""
    name, context = "localhost/stub:latest", _stub_in(tmp_path_factory.mktemp("stub"))
    rootless.docker(
        "build", "--network", "host", "--build-arg", f"BASE={rootless.base}", "--tag", name, str(context)
    )
    return name


@pytest.fixture
def rootless_containers(rootless: Rootless, rootless_stub: str, tmp_path: Path) -> Iterator[AnyContainers]:
    behind = Path(rootless.url.removeprefix("unix://"))
    with MixedUpEngine(behind, tmp_path / "mixed-up.sock").serving() as server:
        harness = AnyContainers(rootless.docker, server, rootless_stub)
        harness.reads_endless_lines = rootless.kind == "docker"
        yield harness
        harness.close()


@pytest.fixture(scope="module")
def engine_proxy(mixed_up_engine: MixedUpEngine, stub_image: str) -> Iterator[str]:
    """The URL of a proxy before the engine, the program as it is in its image."""
    port = free_port()
    settings = ProxySettings(
        socket=mixed_up_engine.socket,
        host="127.0.0.1",
        port=port,
        deployment=DEPLOYMENT,
        network="bridge",
        images=(stub_image,),
        max_cpu=1,
        max_memory_mb=256,
        max_seconds=3600,
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher.engine_proxy"], env=os.environ | settings.to_environment()
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _serves(port):
            assert process.poll() is None
            assert time.monotonic() < deadline, "a proxy that answers"
            time.sleep(0.05)
        yield f"tcp://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def _serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_ping", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def proxied_containers(
    engine: Engine, mixed_up_engine: MixedUpEngine, stub_image: str, engine_proxy: str
) -> Iterator[Containers]:
    harness = Containers(engine, mixed_up_engine, stub_image, engine_proxy)
    yield harness
    harness.close()
