"""Docker's engine and Podman's service without root, for tests: of an account with subordinate ids.

Docker runs by its own script (`dockerd-rootless.sh`, of Debian's docker.io), in the namespaces that
RootlessKit makes; Podman makes its own. Both need the packages rootlesskit, slirp4netns and uidmap, an
account in /etc/subuid, and a /dev/net/tun that it may open.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.base_image import NoBase, base_archive
from tests.engine import DockerError, Missing, run_client
from tests.patience import PATIENCE
from tests.podman import LIMITS
from tests.postgres import die_with_the_parent

SECONDS = 60.0
"""For each of: starting, stopping."""

SCRIPT = Path("/usr/share/docker.io/contrib/dockerd-rootless.sh")
BASE = "switchboard-test/base:1"
NEEDED = ("rootlesskit", "slirp4netns", "newuidmap", "setpriv")


def account() -> pwd.struct_passwd:
    """Return an account, other than root, that has subordinate ids.

    Raises:
        Missing: There is none, or something else is missing.
    """
    if os.geteuid() != 0:
        raise Missing("engines without root are started by root here, as an account of its own")
    if lacking := [name for name in NEEDED if shutil.which(name) is None]:
        raise Missing(f"there is no `{lacking[0]}`: install rootlesskit, slirp4netns, uidmap and util-linux")
    listed = Path("/etc/subuid")
    names = [line.partition(":")[0] for line in listed.read_text().splitlines()] if listed.exists() else []
    for name in names:
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            if found.pw_uid != 0:
                return found
    raise Missing("no account in /etc/subuid: `useradd --create-home tester` makes one")


class Rootless:
    """A service that speaks Docker's API, run by an account that is not root. Empty at first; keeps nothing.

    Args:
        kind: `docker` or `podman`.

    Raises:
        Missing: it is not installed, or may not run here.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        found = account()
        program = SCRIPT if kind == "docker" else Path(shutil.which("podman") or "")
        if not program.is_file():
            raise Missing(f"there is no {kind}: install the packages docker.io and podman")
        self._directory = Path(tempfile.mkdtemp(prefix=f"rootless-{kind}-"))
        for name in ("home", "run", "data"):
            (self._directory / name).mkdir(mode=0o700)
        self._config = self._directory / "config"
        self._config.mkdir()
        limits = self._directory / "containers.conf"
        limits.write_text(f"[containers]\ndefault_ulimits = {LIMITS}\n")
        for path in (self._directory, *self._directory.iterdir()):
            os.chown(path, found.pw_uid, found.pw_gid)
        self._as_account = [
            "setpriv",
            "--reuid",
            str(found.pw_uid),
            "--regid",
            str(found.pw_gid),
            "--clear-groups",
        ]
        self._environment = {
            "HOME": str(self._directory / "home"),
            "USER": found.pw_name,
            "XDG_RUNTIME_DIR": str(self._directory / "run"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "CONTAINERS_CONF": str(limits),
        }
        self._log_path = self._directory / "log"
        self._log = self._log_path.open("wb")
        # Linux tells a child of the death of the thread that started it: one that lives as long as this.
        self._starter = ThreadPoolExecutor(1)
        self._service = self._starter.submit(self._start, self._command(kind, program)).result()
        try:
            self._wait_for_start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"unix://{self._directory / 'run' / 'engine.sock'}"

    @property
    def base(self) -> str:
        """The name of the tests' base, for a `FROM`. Podman wants a registry's name."""
        return f"{'' if self.kind == 'docker' else 'docker.io/'}{BASE}"

    def docker(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Run Docker's client against the service, as `Engine.docker` does."""
        return run_client(self.url, *arguments, config=self._config, stdin=stdin, timeout=timeout)

    def close(self) -> None:
        """End the service with its containers, and remove what it has written."""
        with contextlib.suppress(DockerError):
            if containers := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", *containers)
        os.killpg(self._service.pid, signal.SIGTERM)
        try:
            self._service.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._service.pid, signal.SIGKILL)
            self._service.wait()
        # Podman's process that holds its namespaces outlives its service.
        for pause in (self._directory / "run").rglob("pause.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pause.read_text()), signal.SIGKILL)
        self._starter.shutdown()
        self._log.close()
        for point in _mounts_below(self._directory):
            subprocess.run(["umount", str(point)], check=True, capture_output=True, timeout=PATIENCE)
        shutil.rmtree(self._directory)

    def _command(self, kind: str, program: Path) -> list[str]:
        data = self._directory / "data"
        if kind == "docker":
            options = ("--data-root", str(data), "--exec-root", str(self._directory / "run" / "docker"))
            pid = ("--pidfile", str(self._directory / "run" / "docker.pid"))
            return [str(program), "--host", self.url, *options, *pid]
        options = ("--root", str(data), "--runroot", str(self._directory / "run" / "containers"))
        runtime = ("--runtime", shutil.which("runc") or "runc", "--cgroup-manager", "cgroupfs")
        return [str(program), *options, *runtime, "system", "service", "--time", "0", self.url]

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._as_account, *command],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=lambda: die_with_the_parent(signal.SIGTERM),
        )

    def _wait_for_start(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.docker("version", timeout=10)
                return
            except (DockerError, subprocess.TimeoutExpired):
                said = self._log_path.read_text(errors="replace")[-1000:]
                if self._service.poll() is not None:
                    raise Missing(f"the service without root ends here as it starts: {said}") from None
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the service without root does not start:\n{said}") from None
            time.sleep(0.1)


def _mounts_below(directory: Path) -> list[Path]:
    """Return where something is mounted in a directory, the last mounted first."""
    points = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(directory.resolve())]


@pytest.fixture(scope="module", params=["docker", "podman"])
def rootless(request: pytest.FixtureRequest) -> Iterator[Rootless]:
    """A service without root; where none can run the tests are skipped."""
    try:
        base = base_archive()
        started = Rootless(request.param)
    except (Missing, NoBase) as missing:
        pytest.skip(str(missing))
    try:
        started.docker("import", str(base), BASE)
        yield started
    finally:
        started.close()
