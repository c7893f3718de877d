"""What the tests need of the system's packages: a browser, and engines for containers.

On Debian and Ubuntu root gets what is missing by `apt-get`. Only the standard library is imported here:
`stacks.setup` runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stacks.commands import run
from stacks.errors import SetupError
from stacks.progress import step

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Package:
    """A package of Debian and Ubuntu."""

    name: str
    program: str
    """What is looked for: a name on PATH, or a path."""
    services: tuple[str, ...] = ()
    """systemd's units that would stand in the tests' way: they take the engine's place, or its ports."""


ENGINE = (
    Package("docker.io", "dockerd", ("docker.service", "docker.socket")),
    Package("docker-registry", "docker-registry", ("docker-registry.service",)),
    Package("iptables", "iptables"),
    Package("debootstrap", "debootstrap"),
    Package("coturn", "turnserver", ("coturn.service",)),
    Package("podman", "podman"),
    Package("runc", "runc"),
    # Podman only recommends it, and without it runs no container with an init process.
    Package("catatonit", "/usr/libexec/podman/catatonit"),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge"),
)

POLICY = "usr/sbin/policy-rc.d"
"""What a package asks before it starts a service: status 101 forbids it (invoke-rc.d's interface)."""

OURS = "# Of the setup of Switchboard's tests."


def find_browser() -> str:
    """A Chromium for the tests in a real browser; on Debian and Ubuntu it is installed if we may."""
    found = _browser()
    if found:
        return found
    advice = "the tests need Chromium on PATH: install the package chromium, and run this again"
    if not _may_install():
        raise SetupError(advice)
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
    """
    missing = [package for package in ENGINE if not _is_there(package, root)]
    if not missing or not _may_install():
        return
    names = [package.name for package in missing]
    failure = "the Docker engine of the tests was not installed"
    with step(f"installing {' and '.join(names)} with apt-get (downloads them)"):
        with _no_starts(root / POLICY):
            _apt_install(names, failure)
        _disable([service for package in missing for service in package.services], root)


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
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names]
    run(command, failure, environment=environment)


@contextlib.contextmanager
def _no_starts(policy: Path) -> Iterator[None]:
    """No package starts a service that it brings, unless the system has a policy of its own for that."""
    if policy.exists() and OURS not in policy.read_text(errors="replace"):
        yield
        return
    # If we are killed and it stays, it forbids nothing any more.
    policy.write_text(f"#!/bin/sh\n{OURS}\nkill -0 {os.getpid()} 2>/dev/null && exit 101\nexit 0\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def _disable(services: Sequence[str], root: Path) -> None:
    """Nor are they started when the machine boots."""
    units = [root / "lib/systemd/system" / service for service in services]
    there = [unit.name for unit in units if unit.exists()]
    if there and shutil.which("systemctl") is not None:
        command = ["systemctl", "disable", "--quiet", *there]
        run(command, f"{' and '.join(there)}, which were just installed, would start at boot")


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)
