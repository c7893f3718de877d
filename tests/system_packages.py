"""The system's packages that the tests need: a browser, and engines for containers.

On Debian and Ubuntu root gets what is missing by `apt-get`. Only the standard library is imported here:
`stacks.setup --dev` runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stacks.commands import run
from stacks.errors import SetupError
from stacks.progress import say, step

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Package:
    """A package of Debian and Ubuntu."""

    name: str
    program: str
    """What is looked for: a name on PATH, or a path."""


ENGINE = (
    Package("docker.io", "dockerd"),
    Package("docker-registry", "docker-registry"),
    Package("iptables", "iptables"),
    Package("debootstrap", "debootstrap"),
    Package("coturn", "turnserver"),
    Package("podman", "podman"),
    Package("runc", "runc"),
    # Podman only recommends it, and without it runs no container with an init process.
    Package("catatonit", "/usr/libexec/podman/catatonit"),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge"),
)

POLICY = "usr/sbin/policy-rc.d"
"""What a package asks before it starts a service: status 101 forbids it (invoke-rc.d's interface)."""

OURS = "# Of the setup of Switchboard's tests."

LOCK = "run/switchboard-setup.lock"
"""Held while packages are installed. Not in /run/lock, where others than root may put files."""


def find_browser(root: Path = Path("/")) -> str:
    """A Chromium for the tests in a real browser; on Debian and Ubuntu it is installed if we may.

    Raises SetupError where there is none: the tests that need it are skipped then.
    """
    found = _browser()
    if found:
        return found
    advice = (
        "Chromium is not on PATH, and the tests in a browser are skipped: "
        "install the package chromium, and run this again"
    )
    if not _may_install():
        raise SetupError(advice)
    with _one_at_a_time(root, advice):
        # The setup that we waited for may have installed it.
        if not _browser():
            with step("installing Chromium with apt-get (downloads it)"):
                _apt_install(["chromium"], advice)
    found = _browser()
    if not found:
        raise SetupError(advice)
    return found


def install_engine(root: Path = Path("/")) -> None:
    """Docker's engine, Podman, and what makes their base image, for the tests of images and containers.

    Only where they can be installed; elsewhere the tests that need one are skipped, and say so. What is
    installed runs when the tests start it: as services, Docker would be the other engine beside which they
    are skipped, and coturn would have the port that the stack's own needs.

    Raises SetupError if they should have been installed and were not.
    """
    if not _missing(root) or not _may_install():
        return
    failure = (
        f"{_listed(_missing(root))} were not installed, "
        "and the tests of containers that need them are skipped"
    )
    with _one_at_a_time(root, failure):
        # The setup that we waited for may have installed them.
        names = _missing(root)
        if not names:
            return
        with (
            step(f"installing {_listed(names)} with apt-get (downloads them)"),
            _nothing_new_at_boot(failure),
            _no_starts(root / POLICY, failure),
        ):
            _apt_install(names, failure)


def _missing(root: Path) -> list[str]:
    return [package.name for package in ENGINE if not _is_there(package, root)]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _is_there(package: Package, root: Path) -> bool:
    path = os.environ.get("PATH", os.defpath)
    system = os.pathsep.join([path, *(str(root / name) for name in ("usr/sbin", "sbin"))])
    program = str(root / package.program[1:]) if package.program.startswith("/") else package.program
    return shutil.which(program, path=system) is not None


def _may_install() -> bool:
    return shutil.which("apt-get") is not None and os.geteuid() == 0


def _apt_install(names: Sequence[str], failure: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "-qq"], failure, environment=environment)
    # What others installed stays: docker.io would replace the containerd.io of Docker's own packages.
    # -q, as -qq would not tell which package that is.
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "--no-remove", *names]
    run(command, failure, environment=environment)


@contextlib.contextmanager
def _one_at_a_time(root: Path, failure: str) -> Iterator[None]:
    """Wait for another checkout's setup that is installing: both need apt-get's lock, and have one policy."""
    path = root / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
    except OSError as error:
        raise SetupError(f"{failure}: {error}") from None
    with lock:
        with step("waiting for another setup that installs packages"):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _no_starts(policy: Path, failure: str) -> Iterator[None]:
    """No package starts a service that it brings, unless the system has a policy of its own for that."""
    if _is_in_force(policy):
        yield
        return
    try:
        # If we are killed and it stays, it forbids nothing any more.
        policy.write_text(f"#!/bin/sh\n{OURS}\nkill -0 {os.getpid()} 2>/dev/null && exit 101\nexit 0\n")
        policy.chmod(0o755)
    except OSError as error:
        # Half of one would pass for the system's own.
        with contextlib.suppress(OSError):
            policy.unlink(missing_ok=True)
        raise SetupError(f"{failure}: {error}") from None
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def _is_in_force(policy: Path) -> bool:
    """True if it is the system's own, or of a setup that lives: an older one takes no turns."""
    try:
        text = policy.read_text(errors="replace")
    except FileNotFoundError:
        return False
    return OURS not in text or subprocess.run(["/bin/sh", "-c", text], check=False).returncode == 101


@contextlib.contextmanager
def _nothing_new_at_boot(failure: str) -> Iterator[None]:
    """Nor are they started when the machine boots. What was enabled before stays so.

    Compared are systemd's lists, as packages bring others along, and some of them enable units of their own.
    """
    if shutil.which("systemctl") is None:
        yield
        return
    before = _enabled(failure)
    try:
        yield
    finally:
        # Also of an install that failed halfway; that failure is what is to be raised.
        try:
            _disable(_enabled("what was just installed may start at boot") - before)
        except SetupError as error:
            say(f"notice: {error}")


def _enabled(failure: str) -> set[str]:
    """The units that start at boot; it is told also where systemd does not run."""
    command = ["systemctl", "list-unit-files", "--state=enabled", "--no-legend", "--plain", "--full"]
    lines = [line.split() for line in run(command, failure).splitlines()]
    return {words[0] for words in lines if words[1:2] == ["enabled"]}


def _disable(units: set[str]) -> None:
    if units:
        names = sorted(units)
        command = ["systemctl", "disable", "--quiet", *names]
        run(command, f"{_listed(names)}, which were just installed, would start at boot")


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)
