"""A Docker engine that knows BuildKit's named contexts, and a client with buildx: 23.0 or later.

Debian 12 has 20.10. There the programs come from Debian 13's packages, which the machine's own mirror has and
apt checks: they are unpacked in the cache, and nothing is installed. The engine has a bridge of its own and
no rules of the firewall, so it runs beside another one; its builds take the host's network.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import engine as engines
from tests.engine import Engine, Missing, Programs, cache_directory

OLDEST = 23
"""Major version of the first Docker whose BuildKit knows named contexts."""

SUITE = "trixie"
"""Debian 13: Docker 26, and programs that run with Debian 12's libraries."""

PACKAGES = ("docker.io", "docker-cli", "docker-buildx", "containerd")
"""Not runc: Debian 13's needs a newer C library, and Debian 12's does."""

BRIDGE, BRIDGE_ADDRESS = "switchboard-own", "169.254.77.1/24"
"""The engine's bridge: one with no bridge at all deletes `docker0`, which is another engine's."""

ALONE = ("--bridge", BRIDGE, "--iptables=false", "--ip6tables=false", "--ip-forward=false")
"""Options of an engine that touches nothing else of the host's network."""

PLUGINS = ("usr/libexec/docker/cli-plugins", "usr/lib/docker/cli-plugins")
"""Directories with `docker-buildx`: Debian's and Docker's own packages."""


def find_recent(root: Path = Path("/")) -> Programs:
    """Return this machine's engine if it is recent and has buildx, else Debian 13's.

    Raises:
        Missing: neither is to be had, or none may run here.
    """
    programs = engines.find(beside=True)
    plugins = _plugins(root)
    if plugins is not None and _major(programs.engine) >= OLDEST:
        return Programs(programs.engine, programs.client, plugins=str(plugins), options=ALONE)
    unpacked = _unpacked()
    plugins = _plugins(unpacked)
    assert plugins is not None, f"{PACKAGES} of {SUITE} have no docker-buildx"
    return Programs(
        str(unpacked / "usr/sbin/dockerd"),
        str(unpacked / "usr/bin/docker"),
        beside=str(unpacked / "usr/bin"),
        plugins=str(plugins),
        options=ALONE,
    )


def _major(program: str) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"version (\d+)\.", said.stdout)
    return int(found[1]) if found else 0


def _plugins(root: Path) -> Path | None:
    """Return the directory of the client's plugins, if buildx is in it."""
    return next((root / place for place in PLUGINS if (root / place / "docker-buildx").exists()), None)


def _unpacked() -> Path:
    """Return a directory with the packages' files, downloaded if it is not there yet (80 MB)."""
    directory = cache_directory() / f"docker-of-{SUITE}"
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if directory.exists():
            return directory
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise Missing(
                    f"there is no Docker {OLDEST} or later with buildx, and no {program} to get Debian's with"
                )
        with tempfile.TemporaryDirectory(prefix="switchboard-apt-", dir=directory.parent) as made:
            _download(Path(made))
            (Path(made) / "root").mkdir()
            for package in sorted(Path(made).glob("*.deb")):
                _run("dpkg-deb", "--extract", str(package), str(Path(made) / "root"))
            os.rename(Path(made) / "root", directory)
    return directory


def _download(directory: Path) -> None:
    """Download the packages into a directory, with apt's lists and settings of their own in it."""
    for name in ("lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    mirror = _mirror()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = directory / "sources.list"
    source.write_text(f"deb [signed-by={keyring}] {mirror} {SUITE} main\n")
    own = {
        "Dir::Etc::SourceList": str(source),
        "Dir::Etc::SourceParts": "/dev/null",
        # Of the machine's own suite alone.
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": str(directory),
        "Dir::State::Status": str(directory / "status"),
        "Dir::Cache": str(directory / "cache"),
        # Its user cannot write into a directory of root's.
        "APT::Sandbox::User": "root",
    }
    options = [word for key, value in own.items() for word in ("--option", f"{key}={value}")]
    _run("apt-get", "--quiet", *options, "update", directory=directory)
    _run("apt-get", "--quiet", *options, "download", *PACKAGES, directory=directory)


def _mirror() -> str:
    """Return the address of the Debian mirror that this machine's apt is set up for."""
    told = _run(
        "apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Created-By: Packages"
    )
    for line in told.splitlines():
        origin, label, address = line.split("|", 2)
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise Missing(
        f"there is no Docker {OLDEST} or later with buildx, and apt has no mirror of Debian's to get it from "
        "(after `apt-get update`)"
    )


def _run(*command: str, directory: Path | None = None) -> str:
    result = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        check=False,
    )
    if result.returncode:
        raise Missing(f"{' '.join(command)[-200:]}: status {result.returncode}\n{result.stderr[-2000:]}")
    return result.stdout


@pytest.fixture(scope="module")
def recent_engine() -> Iterator[Engine]:
    """An engine of 23.0 or later, with images and caches of its own; skipped where none can run."""
    with contextlib.ExitStack() as stack:
        try:
            programs = find_recent()
            stack.enter_context(bridge())
            engine = stack.enter_context(Engine(cache_directory() / "docker-recent", programs))
        except Missing as missing:
            pytest.skip(str(missing))
        yield engine


@contextlib.contextmanager
def bridge() -> Iterator[None]:
    """The engine's bridge, as long as the engine; one that a run left behind is taken."""
    if shutil.which("ip") is None:
        raise Missing("there is no `ip` to make the engine's bridge: install the package iproute2")
    if not Path("/sys/class/net", BRIDGE).exists():
        _run("ip", "link", "add", "name", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", BRIDGE_ADDRESS, "dev", BRIDGE)
    try:
        yield
    finally:
        _run("ip", "link", "delete", BRIDGE)
