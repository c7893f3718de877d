"""What is installed of the system's packages, and how. apt-get and systemctl are scripts of the tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stacks.errors import SetupError
from stacks.packages import find_browser, install_engine

PACKAGES = (
    *("docker.io", "docker-registry", "iptables", "debootstrap", "coturn", "podman", "runc", "catatonit"),
    "containernetworking-plugins",
)
"""All that the tests of containers run."""


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


class Debian:
    """A system at `root` that has nothing yet. It writes down what it is told, and, while packages are
    installed, what its policy says to the start of a service."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.bin = directory / "bin"
        self.policy = self.root / "usr/sbin/policy-rc.d"
        self.policy.parent.mkdir(parents=True)
        for service in ("docker.service", "docker.socket", "coturn.service", "docker-registry.service"):
            unit = self.root / "lib/systemd/system" / service
            unit.parent.mkdir(parents=True, exist_ok=True)
            unit.touch()
        self._log = directory / "log"
        self._log.touch()
        self.apt_get("")
        program(self.bin / "systemctl", f'echo "systemctl $*" >> {self._log}')

    def apt_get(self, more: str) -> None:
        """What apt-get does at an install."""
        program(
            self.bin / "apt-get",
            f'echo "apt-get $*" >> {self._log}\n'
            "[ $1 = install ] || exit 0\n"
            f'[ ! -e {self.policy} ] || {{ {self.policy} docker start; echo "policy $?" >> {self._log}; }}\n'
            + more,
        )

    def has(self, *programs: str) -> None:
        for name in programs:
            program(self.root / name, "")

    def said(self) -> list[str]:
        """What it was told since the last call."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return lines


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debian:
    made = Debian(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def test_what_the_tests_run_is_installed_and_no_service_starts(debian: Debian) -> None:
    install_engine(debian.root)
    assert debian.said() == [
        "apt-get update -qq",
        f"apt-get install -y -qq --no-install-recommends {' '.join(PACKAGES)}",
        "policy 101",
        "systemctl disable --quiet docker.service docker.socket docker-registry.service coturn.service",
    ]
    assert not debian.policy.exists()


def test_only_what_is_missing_is_installed_and_what_was_there_is_left_alone(debian: Debian) -> None:
    debian.has("usr/sbin/dockerd", "usr/sbin/iptables", "usr/sbin/runc", "usr/sbin/debootstrap")
    debian.has("usr/libexec/podman/catatonit", "usr/lib/cni/bridge", "usr/sbin/docker-registry")
    install_engine(debian.root)
    assert debian.said() == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends coturn podman",
        "policy 101",
        "systemctl disable --quiet coturn.service",
    ]
    debian.has("usr/sbin/turnserver", "usr/sbin/podman")
    install_engine(debian.root)
    assert debian.said() == []


def test_a_system_without_systemd_has_nothing_to_disable(debian: Debian) -> None:
    (debian.bin / "systemctl").unlink()
    install_engine(debian.root)
    assert debian.said()[-1] == "policy 101"


def test_a_policy_of_the_systems_own_stays(debian: Debian) -> None:
    program(debian.policy, "exit 104")
    install_engine(debian.root)
    assert "policy 104" in debian.said()
    assert debian.policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_an_install_that_fails_leaves_no_policy(debian: Debian) -> None:
    debian.apt_get("echo no space left; exit 100")
    with pytest.raises(SetupError, match="no space left"):
        install_engine(debian.root)
    assert debian.said()[-1] == "policy 101"
    assert not debian.policy.exists()


def test_a_policy_that_a_killed_setup_left_forbids_nothing_and_is_replaced(debian: Debian) -> None:
    kept = debian.root / "kept"
    debian.apt_get(f'while read -r line; do echo "$line"; done < {debian.policy} > {kept}')
    install_engine(debian.root)
    dead = subprocess.Popen(["/bin/sh", "-c", ""])
    dead.wait()
    program(debian.policy, kept.read_text().replace(str(os.getpid()), str(dead.pid)))
    assert subprocess.run([debian.policy, "docker", "start"], check=False).returncode == 0
    debian.said()
    install_engine(debian.root)
    assert "policy 101" in debian.said()
    assert not debian.policy.exists()


@pytest.mark.parametrize("why", ["no root", "no apt-get"])
def test_where_nothing_can_be_installed_nothing_is(
    debian: Debian, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no root":
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    else:
        (debian.bin / "apt-get").unlink()
    install_engine(debian.root)
    assert debian.said() == []
    with pytest.raises(SetupError, match="install the package chromium"):
        find_browser()


def test_a_browser_is_installed(debian: Debian) -> None:
    chromium = debian.bin / "chromium"
    debian.apt_get(f": > {chromium}; /bin/chmod +x {chromium}")
    assert find_browser() == str(chromium)
    assert debian.said() == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends chromium",
    ]
    assert find_browser() == str(chromium)
    assert debian.said() == []
