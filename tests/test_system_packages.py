"""Installation of the system's packages. apt-get and systemctl are scripts of the tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from pathlib import Path

import pytest

from stacks.errors import SetupError
from tests.patience import PATIENCE
from tests.system_packages import OURS, find_browser, install_engine

PACKAGES = (
    *("docker.io", "docker-registry", "iptables", "debootstrap", "coturn", "podman", "runc", "catatonit"),
    "containernetworking-plugins",
)
"""All that the tests of containers run."""

INSTALL = "apt-get install -y -q --no-install-recommends --no-remove"

ENABLED_BY = {
    # With the containerd that it needs.
    "docker.io": "docker.service docker.socket containerd.service",
    "docker-registry": "docker-registry.service",
    "coturn": "coturn.service",
    "podman": "podman.service podman.socket podman-auto-update.timer podman-restart.service",
}
"""What starts at boot once a package is installed."""


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
        self._at_boot = directory / "at-boot"
        self._at_boot.mkdir()
        self.enable("ssh.service")
        self._log = directory / "log"
        self._log.touch()
        self.apt_get("")
        self.systemctl("")

    def systemctl(self, before: str) -> None:
        """Commands that systemctl runs first."""
        program(
            self.bin / "systemctl",
            f"{before}\n"
            f"cd {self._at_boot}\n"
            "case $1 in\n"
            'list-unit-files) for unit in *; do echo "$unit enabled enabled"; done;;\n'
            "disable) shift 2; /bin/rm $*;;\n"
            "esac",
        )

    def enable(self, unit: str) -> None:
        (self._at_boot / unit).touch()

    @property
    def at_boot(self) -> set[str]:
        return {unit.name for unit in self._at_boot.iterdir()}

    def apt_get(self, more: str) -> None:
        """Commands that apt-get runs at an install, after the packages are there."""
        cases = "".join(f" {name}) /bin/touch {units};;" for name, units in ENABLED_BY.items())
        program(
            self.bin / "apt-get",
            f'echo "apt-get $*" >> {self._log}\n'
            "[ $1 = install ] || exit 0\n"
            f'[ ! -e {self.policy} ] || {{ {self.policy} docker start; echo "policy $?" >> {self._log}; }}\n'
            f"(cd {self._at_boot}; for name; do case $name in{cases} esac; done)\n" + more,
        )

    def has(self, *programs: str) -> None:
        for name in programs:
            program(self.root / name, "")

    def said(self) -> list[str]:
        """Arguments that it got since the last call."""
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
    assert debian.said() == ["apt-get update -qq", f"{INSTALL} {' '.join(PACKAGES)}", "policy 101"]
    assert debian.at_boot == {"ssh.service"}
    assert not debian.policy.exists()


def test_what_started_at_boot_before_still_does(debian: Debian) -> None:
    for unit in ("containerd.service", "podman.socket"):
        debian.enable(unit)
    install_engine(debian.root)
    assert debian.at_boot == {"ssh.service", "containerd.service", "podman.socket"}


def test_if_systemd_refuses_that_is_said(debian: Debian, capsys: pytest.CaptureFixture[str]) -> None:
    debian.systemctl("[ $1 != disable ] || { echo access denied; exit 1; }")
    install_engine(debian.root)
    said = capsys.readouterr().out
    assert "podman.socket, which were just installed, would start at boot:\naccess denied" in said


def test_where_what_starts_at_boot_is_unknown_nothing_is_installed(debian: Debian) -> None:
    debian.systemctl("echo no bus; exit 1")
    with pytest.raises(SetupError, match=r"docker\.io and .* are skipped:\nno bus"):
        install_engine(debian.root)
    assert debian.said() == []


def test_only_what_is_missing_is_installed_and_what_was_there_is_left_alone(debian: Debian) -> None:
    debian.has("usr/sbin/dockerd", "usr/sbin/iptables", "usr/sbin/runc", "usr/sbin/debootstrap")
    debian.has("usr/libexec/podman/catatonit", "usr/lib/cni/bridge", "usr/sbin/docker-registry")
    install_engine(debian.root)
    assert debian.said() == ["apt-get update -qq", f"{INSTALL} coturn podman", "policy 101"]
    assert debian.at_boot == {"ssh.service"}
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


def test_failed_install_says_what_is_missing_and_leaves_nothing_behind(debian: Debian) -> None:
    debian.has("usr/sbin/dockerd")
    debian.apt_get("echo no space left; exit 100")
    with pytest.raises(SetupError, match=r"podman and .* are skipped:\n(.|\n)*no space left"):
        install_engine(debian.root)
    assert debian.said()[-1] == "policy 101"
    assert debian.at_boot == {"ssh.service"}
    assert not debian.policy.exists()


def test_a_policy_that_is_gone_after_the_install_is_no_failure(debian: Debian) -> None:
    debian.apt_get(f"/bin/rm {debian.policy}")
    install_engine(debian.root)
    assert not debian.policy.exists()


def test_a_policy_that_cannot_be_written_is_a_failure_that_says_so(debian: Debian) -> None:
    debian.policy.parent.rmdir()
    with pytest.raises(SetupError, match=r"are skipped: .*No such file or directory"):
        install_engine(debian.root)
    assert debian.said() == []


def test_the_policy_of_another_setup_that_lives_stays(debian: Debian) -> None:
    other = subprocess.Popen(["/bin/sh", "-c", "read -r line"], stdin=subprocess.PIPE)
    program(debian.policy, f"{OURS}\nkill -0 {other.pid} 2>/dev/null && exit 101\nexit 0")
    before = debian.policy.read_text()
    install_engine(debian.root)
    other.communicate()
    assert "policy 101" in debian.said()
    assert debian.policy.read_text() == before


def test_two_setups_install_one_after_the_other(debian: Debian, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = debian.root / "begun", debian.root / "go-on"
    for fifo in (begun, go_on):
        os.mkfifo(fifo)
    debian.apt_get(f"echo > {begun}; read -r line < {go_on}")
    # What the first one installs, the second needs no more.
    everything = ("dockerd", "docker-registry", "iptables", "debootstrap", "turnserver", "podman", "runc")
    first, second = (
        threading.Thread(target=install_engine, args=(debian.root,), daemon=True) for _ in range(2)
    )
    first.start()
    begun.read_text()
    waits = threading.Event()
    take = fcntl.flock

    def flock(lock: int, kind: int) -> None:
        waits.set()
        take(lock, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    second.start()
    assert waits.wait(PATIENCE)
    debian.has(*(f"usr/sbin/{name}" for name in everything))
    debian.has("usr/libexec/podman/catatonit", "usr/lib/cni/bridge")
    assert debian.policy.exists()
    go_on.write_text("\n")
    for thread in (first, second):
        thread.join(20)
        assert not thread.is_alive()
    assert debian.said() == ["apt-get update -qq", f"{INSTALL} {' '.join(PACKAGES)}", "policy 101"]
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
        find_browser(debian.root)


def test_a_browser_is_installed(debian: Debian) -> None:
    chromium = debian.bin / "chromium"
    debian.apt_get(f": > {chromium}; /bin/chmod +x {chromium}")
    assert find_browser(debian.root) == str(chromium)
    assert debian.said() == ["apt-get update -qq", f"{INSTALL} chromium"]
    assert find_browser(debian.root) == str(chromium)
    assert debian.said() == []
