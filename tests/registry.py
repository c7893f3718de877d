"""A registry of images for tests: Debian's `docker-registry` on the loopback, which engines trust."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import Engine, Missing
from tests.ports import free_port
from tests.postgres import die_with_the_parent

SECONDS = 20.0
"""For its start."""


class Registry:
    """A registry that is empty at first, and leaves nothing behind.

    Raises:
        Missing: it is not installed.
    """

    def __init__(self) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            raise Missing("there is no `docker-registry`: install the package")
        self.address = f"127.0.0.1:{free_port()}"
        """What names of its images begin with."""
        self._directory = Path(tempfile.mkdtemp(prefix="switchboard-registry-"))
        config = self._directory / "config.yml"
        storage = {"filesystem": {"rootdirectory": str(self._directory / "images")}}
        # JSON is YAML.
        config.write_text(json.dumps({"version": "0.1", "storage": storage, "http": {"addr": self.address}}))
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_the_parent(signal.SIGKILL),
            )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def push(self, engine: Engine, image: str, name: str) -> str:
        """Put an image into the registry under a name; gives its reference by digest."""
        tag = f"{self.address}/{name}:pushed"
        engine.docker("tag", image, tag)
        try:
            engine.docker("push", "--quiet", tag)
            return engine.docker("inspect", "--format", "{{index .RepoDigests 0}}", tag)
        finally:
            engine.docker("rmi", tag)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory)

    def _wait(self) -> None:
        host, _, port = self.address.partition(":")
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._directory / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the registry does not start: {error}\n{log}") from error
            time.sleep(0.02)


@pytest.fixture
def registry(engine: Engine) -> Iterator[Registry]:
    """A registry that the engine can reach."""
    try:
        started = Registry()
    except Missing as missing:
        pytest.skip(str(missing))
    yield started
    started.close()
