"""Start and end of the tests' Podman; `podman` and `runc` are scripts of the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.engine import Missing
from tests.patience import PATIENCE
from tests.podman import Podman

CHECKOUT = Path(__file__).resolve().parents[1]

PODMAN = """\
#!{python}
import json, os, signal, sys, time
with open({log!r}, "a") as log:
    log.write(json.dumps([os.getpid(), sys.argv[1:]]) + "\\n")
words = sys.argv[1:]
if words[-5:-1] != ["system", "service", "--time", "0"]:
    sys.exit({others})
if {ends}:
    sys.exit("no overlay here")
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(words[-1].removeprefix("unix://"), "w").close()
time.sleep(600)
"""

WAITS = """
import os, time
os.geteuid = lambda: 0
from tests.podman import Podman

podman = Podman()
print(podman.url, flush=True)
time.sleep(600)
"""


class Fake:
    """A `podman` on PATH, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.files = directory / "files"
        """Where its directories are made."""
        self.files.mkdir()
        self._log = directory / "log"

    def install(self, *, ends: bool = False, deaf: bool = False, others: int = 0) -> None:
        """
        Args:
            ends: Its service ends as it starts.
            deaf: Its service does not end when it is told to.
            others: The status of its other commands.
        """
        script = PODMAN.format(python=sys.executable, log=str(self._log), ends=ends, deaf=deaf, others=others)
        for name, text in (("podman", script), ("runc", "#!/bin/sh\n")):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    @property
    def asked(self) -> list[list[str]]:
        return [words for _, words in self._lines()]

    @property
    def service(self) -> int:
        """The service's process."""
        return next(pid for pid, words in self._lines() if "service" in words)

    def _lines(self) -> list[tuple[int, list[str]]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(tempfile, "tempdir", str(made.files))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def test_all_that_it_has_is_in_a_directory_of_its_own_that_goes_with_it(fake: Fake) -> None:
    fake.install()
    podman = Podman()
    (own,) = fake.files.iterdir()
    podman.podman("import", "base.tar")
    podman.close()
    for words in fake.asked:
        for option in ("--root", "--runroot", "--tmpdir", "--network-config-dir"):
            assert Path(words[words.index(option) + 1]).parent == own, words
        assert "reset" not in words, "which removes what the machine's own Podman has"
    assert [words[12:14] for words in fake.asked] == [
        ["system", "service"],
        ["import", "base.tar"],
        ["rm", "--all"],
        ["network", "prune"],
    ]
    assert not psutil.pid_exists(fake.service)
    assert list(fake.files.iterdir()) == []


def test_a_service_that_ends_as_it_starts_is_missing_and_leaves_nothing(fake: Fake) -> None:
    """Its other commands fail as well, for the same reason."""
    fake.install(ends=True, others=125)
    with pytest.raises(Missing, match="no overlay here"):
        Podman()
    assert list(fake.files.iterdir()) == []


def test_a_service_that_does_not_end_is_killed_and_all_is_removed(fake: Fake) -> None:
    fake.install(deaf=True)
    Podman(stop_seconds=0.1).close()
    assert "rm" in fake.asked[1]
    assert not psutil.pid_exists(fake.service)
    assert list(fake.files.iterdir()) == []


def test_containers_that_cannot_be_removed_are_told_and_the_rest_is_removed(fake: Fake) -> None:
    fake.install(others=125)
    podman = Podman()
    with pytest.raises(AssertionError, match="podman network prune"):
        podman.close()
    assert not psutil.pid_exists(fake.service)
    assert list(fake.files.iterdir()) == []


def test_what_is_still_mounted_is_unmounted(fake: Fake) -> None:
    """As Podman mounts its layers' directory upon itself."""
    fake.install()
    podman = Podman()
    (own,) = fake.files.iterdir()
    layers = own / "root" / "overlay"
    layers.mkdir()
    mounted = subprocess.run(["mount", "--bind", layers, layers], capture_output=True, text=True, check=False)
    podman.close()
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr}")
    assert list(fake.files.iterdir()) == []
    assert str(layers) not in Path("/proc/self/mounts").read_text()


def test_its_service_dies_with_the_tests(fake: Fake) -> None:
    fake.install()
    tests = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(fake.files)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tests.stdout is not None
    assert tests.stdout.readline().startswith("unix://")
    service = psutil.Process(fake.service)
    tests.send_signal(signal.SIGKILL)
    tests.wait()
    tests.stdout.close()
    assert psutil.wait_procs([service], timeout=PATIENCE)[1] == []


@pytest.mark.parametrize("program", ["podman", "runc"])
def test_without_a_program_it_says_what_to_install(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    fake.install()
    (fake.bin / program).unlink()
    monkeypatch.setenv("PATH", str(fake.bin))
    with pytest.raises(Missing, match=r"no `podman` with `runc`"):
        Podman()
