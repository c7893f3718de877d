"""A private Docker engine for tests: Debian's `dockerd` with its defaults, apart from where it keeps things.

Its images and build caches stay under the user's cache directory between runs, so that a second run builds
nothing twice; containers, networks and volumes of an earlier run are gone before a test sees it. It needs
root, and no other engine beside it: two would take the bridge and the firewall's chains from each other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.postgres import die_with_the_parent

SECONDS = 60.0
"""For each of: starting, stopping. An engine stops its containers first, and gives each 10 s."""

OTHER_RUN_SECONDS = 840.0
"""How long a run waits for another run's engine: as long as its tests of images may take."""

KEPT_BUILD_CACHE = "8gb"
"""Of layers and downloaded packages: several times what all our images need."""

DEFAULT_SOCKET = Path("/var/run/docker.sock")

# Debian's client. Another `docker` on PATH may lack BuildKit, or be a wrapper of something else.
CLIENTS = ("/usr/bin/docker", "docker")


class Missing(Exception):
    """No engine can be run here; the text says why."""


class DockerError(Exception):
    """A `docker` command failed; the text is what it said."""


def cache_directory() -> Path:
    """Where things are kept from run to run: `$XDG_CACHE_HOME/switchboard`, by default in `~/.cache`."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "switchboard"


@dataclass(frozen=True)
class Programs:
    """An engine's program and its client."""

    engine: str
    client: str
    beside: str = ""
    """The directory with the engine's own containerd; else that of PATH."""
    plugins: str = ""
    """The directory with plugins of the client."""
    options: tuple[str, ...] = ()
    """Of `dockerd`."""


class Engine:
    """One engine: started when it is made, and again on the same data after `stop` or `kill`.

    Args:
        data_root: Its images, build cache and containers. One engine at a time; others wait for their turn.
        programs: Another engine than this machine's.

    Raises:
        Missing: there is no engine to run here.
    """

    def __init__(self, data_root: Path | None = None, programs: Programs | None = None) -> None:
        self._programs = programs or find()
        self._data_root = data_root or cache_directory() / "docker"
        self._data_root.mkdir(parents=True, exist_ok=True)
        self._lock = _take_turn(self._data_root.with_suffix(".lock"))
        # Short: a socket's path may have 107 bytes, and the engine's own lie deeper in it.
        self.directory = Path(tempfile.mkdtemp(prefix="switchboard-docker-"))
        if self._programs.plugins:
            (self.directory / "cli-plugins").symlink_to(self._programs.plugins)
        self._log_path = self.directory / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None
        # Linux tells a child of the death of the thread that started it: one that lives as long as this.
        self._starter = ThreadPoolExecutor(1)
        try:
            self.start()
            self._clear()
        except BaseException:
            self.close()
            raise

    @property
    def socket(self) -> Path:
        return self.directory / "docker.sock"

    @property
    def url(self) -> str:
        """The value that DOCKER_HOST would have."""
        return f"unix://{self.socket}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of what the engine has printed."""
        return self._log_path.read_text(errors="replace")[-4000:] if self._log_path.exists() else ""

    def start(self, *options: str) -> None:
        """Start the engine, with options of `dockerd`, and return once it answers. Fine if it runs."""
        if self.running:
            return
        with self._log_path.open("ab") as log:
            self._process = self._starter.submit(
                subprocess.Popen[bytes],
                [
                    *(self._programs.engine, "--host", self.url, "--data-root", str(self._data_root)),
                    *("--exec-root", str(self.directory / "exec")),
                    *("--pidfile", str(self.directory / "dockerd.pid")),
                    *(*self._programs.options, *options),
                ],
                env={**os.environ, "PATH": self._path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests; they stop the engine.
                start_new_session=True,
                preexec_fn=lambda: die_with_the_parent(signal.SIGTERM),
            ).result()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.docker("version", timeout=10)
                return
            except (DockerError, subprocess.TimeoutExpired) as error:
                if not self.running:
                    raise Missing(f"a Docker engine ends here as it starts: {self.log[-500:]}") from error
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the Docker engine does not start: {error}\n{self.log}") from error
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the engine with its containers and return once it is gone. Fine if it is stopped."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the engine as a crash does: its containers go on without it until it is started again."""
        self._end(signal.SIGKILL)
        # Its containerd dies with it. Where nobody collects the dead process (a sandbox's PID 1 may not), the
        # next engine would take it for a live one and wait for its answer in vain.
        (self.directory / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)

    def docker(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout: float = 300,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Run `docker` against this engine; gives what it printed, without the last newline.

        Raises:
            DockerError: it failed.
        """
        return run_client(
            self.url,
            *arguments,
            config=self.directory,
            stdin=stdin,
            timeout=timeout,
            environment=environment,
            client=self._programs.client,
        )

    def build(self, *arguments: str, timeout: float = 900) -> str:
        """Build an image; gives its id."""
        id_file = self.directory / "image-id"
        self._build("--iidfile", str(id_file), *arguments, timeout=timeout)
        return id_file.read_text().strip()

    def build_files(self, directory: Path, *arguments: str, timeout: float = 900) -> None:
        """Build, and put the files of the result into a directory instead of into an image."""
        self._build("--output", str(directory), *arguments, timeout=timeout)

    def _build(self, *arguments: str, timeout: float) -> None:
        """`docker build` by BuildKit, with the host's network for the packages."""
        command = ("build", "--network", "host", "--progress", "plain")
        self.docker(*command, *arguments, timeout=timeout, environment={"DOCKER_BUILDKIT": "1"})

    def has_image(self, name: str) -> bool:
        return bool(self.docker("images", "--quiet", name))

    def close(self) -> None:
        """Stop the engine, trim what it keeps, and let another one have its turn."""
        try:
            if self._process is not None:
                # After `kill` too: only an engine stops what an engine left behind.
                self.start()
                self._clear()
                self.docker("image", "prune", "--force")
                self.docker("builder", "prune", "--force", "--keep-storage", KEPT_BUILD_CACHE)
                self.stop()
        finally:
            self._end(signal.SIGKILL)
            self._starter.shutdown()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._lock)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self) -> str:
        return os.pathsep.join(filter(None, [self._programs.beside, os.environ.get("PATH", os.defpath)]))

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(number)
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the Docker engine does not stop:\n{self.log}") from None

    def _clear(self) -> None:
        containers = self.docker("ps", "--all", "--quiet", "--no-trunc").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)
        self.docker("network", "prune", "--force")
        self.docker("volume", "prune", "--force")


def run_client(
    url: str,
    *arguments: str,
    config: Path,
    stdin: str | None = None,
    timeout: float = 300,
    environment: dict[str, str] | None = None,
    client: str | None = None,
) -> str:
    """Run `docker` against an engine; gives what it printed, without the last newline.

    Args:
        config: A directory for the client: a person's settings of it have no part in a test.
        client: Its program, by default this machine's.

    Raises:
        DockerError: it failed.
        Missing: there is no client.
    """
    client = client or next(filter(None, map(shutil.which, CLIENTS)), None)
    if client is None:
        raise Missing("there is no `docker`: install the package docker.io")
    result = subprocess.run(
        [client, "--host", url, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env={**os.environ, "DOCKER_CONFIG": str(config), **(environment or {})},
        check=False,
    )
    if result.returncode:
        said = (result.stderr + result.stdout)[-4000:].strip()
        raise DockerError(f"docker {' '.join(arguments)[:300]}: status {result.returncode}\n{said}")
    return result.stdout.removesuffix("\n")


def find(clients: Sequence[str] = CLIENTS, beside: bool = False) -> Programs:
    """The engine's program and its client.

    Args:
        beside: The engine will run beside another one, with a bridge of its own and no rules of the firewall.

    Raises:
        Missing: they are not installed, or may not run here.
    """
    if sys.platform != "linux":
        raise Missing(f"a Docker engine for tests needs Linux; this is {sys.platform}")
    if os.geteuid() != 0:
        raise Missing("a Docker engine for tests needs root")
    engine = shutil.which("dockerd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    client = next(filter(None, map(shutil.which, clients)), None)
    if engine is None or client is None:
        raise Missing("there is no `dockerd` with its `docker`: install the package docker.io")
    if not beside and DEFAULT_SOCKET.exists() and _answers(client):
        raise Missing(
            f"another Docker engine runs on this machine ({DEFAULT_SOCKET}): two would share its firewall"
        )
    return Programs(engine, client)


def _answers(client: str) -> bool:
    command = [client, "--host", f"unix://{DEFAULT_SOCKET}", "version"]
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode == 0


def _take_turn(path: Path) -> int:
    """A lock that is held until its descriptor is closed, or the process ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + OTHER_RUN_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RuntimeError(f"another run's Docker engine did not end ({path} is locked)") from None
        time.sleep(0.2)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine for all tests, without containers at first. Where none can run they are skipped.

    A test may stop, kill and start it; it leaves it running, and removes what it made in it.
    """
    try:
        started = Engine()
    except Missing as missing:
        pytest.skip(str(missing))
    with started:
        yield started
