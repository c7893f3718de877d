"""Podman's service for tests: its socket speaks Docker's API, and Docker's client asks it.

It needs root, and keeps nothing: all that it writes is in a directory of its own, and what another Podman of
the machine has is not touched. Podman's usual runtime and limits do not run in every container and VM; runc
and lower limits do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.base_image import NoBase, base_archive
from tests.engine import Missing, run_client
from tests.patience import PATIENCE
from tests.postgres import die_with_the_parent

SECONDS = 30.0
"""For each of: starting, stopping."""

LIMITS = '["nofile=1024:1024", "nproc=1024:1024"]'
"""Podman's own are higher than what a process in a container may ask for."""


class Podman:
    """A service that is empty at first, and leaves nothing behind.

    Args:
        stop_seconds: How long the service may take to stop before it is killed.

    Raises:
        Missing: it is not installed, or may not run here.
    """

    def __init__(self, stop_seconds: float = SECONDS) -> None:
        if shutil.which("podman") is None or shutil.which("runc") is None:
            raise Missing("there is no `podman` with `runc`: install the packages")
        if os.geteuid() != 0:
            raise Missing("a service of Podman for tests needs root")
        self._stop_seconds = stop_seconds
        self._directory = Path(tempfile.mkdtemp(prefix="switchboard-podman-"))
        for name in ("root", "run", "tmp", "networks"):
            (self._directory / name).mkdir()
        config = self._directory / "containers.conf"
        config.write_text(f"[containers]\ndefault_ulimits = {LIMITS}\n")
        self._environment = {**os.environ, "CONTAINERS_CONF": str(config)}
        self._log = (self._directory / "log").open("wb")
        # Linux tells a child of the death of the thread that started it: one that lives as long as this.
        self._starter = ThreadPoolExecutor(1)
        self._service = self._starter.submit(
            subprocess.Popen[bytes],
            [*self._command(), "system", "service", "--time", "0", self.url],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Ctrl-C is for the tests; they stop the service.
            start_new_session=True,
            preexec_fn=lambda: die_with_the_parent(signal.SIGTERM),
        ).result()
        try:
            self._wait_for_start()
        except BaseException:
            # It has made no container: Podman, which may not work at all, is not asked to remove any.
            self._discard()
            raise

    @property
    def url(self) -> str:
        return f"unix://{self._directory / 'podman.sock'}"

    def docker(self, *arguments: str, timeout: float = 300) -> str:
        """Run Docker's client against the service, as `Engine.docker` does."""
        return run_client(self.url, *arguments, config=self._directory, timeout=timeout)

    def podman(self, *arguments: str) -> str:
        """Run Podman itself on what the service has."""
        result = subprocess.run(
            [*self._command(), *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, f"podman {' '.join(arguments)}: {result.stderr[-2000:]}"
        return result.stdout.strip()

    def close(self) -> None:
        """End the service, its containers and networks. Not `system reset`: that removes networks, and files,
        of the machine's own Podman."""
        with contextlib.ExitStack() as last:
            last.callback(self._discard)
            last.callback(self.podman, "network", "prune", "--force")
            last.callback(self.podman, "rm", "--all", "--force", "--volumes", "--time", "0")
            last.callback(self._end_service)

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + SECONDS
        while not (self._directory / "podman.sock").exists():
            said = (self._directory / "log").read_text(errors="replace")
            if self._service.poll() is not None:
                raise Missing(f"Podman's service ends here as it starts: {said[-500:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"Podman's service does not start:\n{said[-4000:]}")
            time.sleep(0.05)

    def _end_service(self) -> None:
        self._service.terminate()
        try:
            self._service.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            self._service.kill()
            self._service.wait()

    def _discard(self) -> None:
        """End the service, and remove what it has written."""
        self._end_service()
        self._starter.shutdown()
        self._log.close()
        for point in _mounts_below(self._directory):
            # What Podman keeps mounted as long as the machine runs.
            subprocess.run(["umount", str(point)], check=True, capture_output=True, timeout=PATIENCE)
        shutil.rmtree(self._directory)

    def _command(self) -> list[str]:
        own = self._directory
        return [
            *("podman", "--root", str(own / "root"), "--runroot", str(own / "run")),
            # Not below those two by themselves.
            *("--tmpdir", str(own / "tmp"), "--network-config-dir", str(own / "networks")),
            *("--runtime", shutil.which("runc") or "runc", "--cgroup-manager", "cgroupfs"),
        ]


def _mounts_below(directory: Path) -> list[Path]:
    """Where something is mounted in a directory, the last mounted first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [Path(line.split()[1]) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(directory.resolve())]


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A service of Podman; where none can run the tests are skipped."""
    try:
        base = base_archive()
        started = Podman()
    except (Missing, NoBase) as missing:
        pytest.skip(str(missing))
    try:
        started.podman("import", str(base), "switchboard-test/base:1")
        yield started
    finally:
        started.close()
