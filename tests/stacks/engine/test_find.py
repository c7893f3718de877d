"""The engine that is taken, and the error when there is none. Programs on PATH are scripts of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stacks.engine import build, find
from stacks.errors import EngineError
from tests.patience import PATIENCE

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


@pytest.fixture(autouse=True)
def _only_the_tests_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(find, "INSTALLER", NOWHERE)
    real = find.shutil.which
    monkeypatch.setattr(find.shutil, "which", lambda name: real(name, path=str(tmp_path / "bin")))


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def fake_go(tmp_path: Path, then: str = "") -> None:
    """A go whose `build … -o FILE PACKAGE` writes an engine of version 3.259.0, and leaves caches behind."""
    program(
        tmp_path / "bin/go",
        'mkdir -p "$GOMODCACHE/deep" "$GOCACHE"; echo "go: downloading example.com v1" >&2\n'
        f"{then}\n"
        'while [ "$1" != -o ]; do shift; done\n'
        'mkdir -p "$(dirname "$2")"; printf "#!/bin/sh\\necho v3.259.0\\n" > "$2"; chmod +x "$2"',
    )


def test_an_engine_on_path_is_used_as_it_is(tmp_path: Path) -> None:
    program(tmp_path / "bin/pulumi", "echo v3.150.0")
    command = find.find(tmp_path / "cache")
    assert command.command == "pulumi"
    assert str(command.version) == "3.150.0"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("script", "said"), [("echo v3.149.9", "it is version 3.149.9"), ("exit 3", "is not used: ")]
)
def test_an_engine_that_will_not_do_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str, said: str
) -> None:
    program(tmp_path / "bin/pulumi", script)
    fake_go(tmp_path)
    assert find.find(tmp_path / "cache").command.startswith(str(tmp_path / "cache"))
    assert said in capsys.readouterr().out


def test_with_go_it_is_built_once_and_no_cache_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_go(tmp_path)
    cache = tmp_path / "cache"
    built = find.find(cache)
    assert str(built.version) == "3.259.0"
    assert "downloads 160 MB" in capsys.readouterr().out
    assert sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()) == [
        "go-3.259.0/bin/pulumi"
    ]
    (tmp_path / "bin/go").unlink()
    assert find.find(cache).command == built.command


def test_without_anything_it_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        find.find(tmp_path / "cache")
    text = str(caught.value)
    assert text.startswith(
        "the Pulumi engine is missing: no pulumi on PATH; the official installer: cannot be"
    )
    assert text.endswith(
        "no go on PATH to build it with. Install Pulumi (at least 3.150.0) or Go, and run this again"
    )


def test_a_build_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    fake_go(tmp_path, 'echo "verifying module: checksum mismatch" >&2; exit 1')
    with pytest.raises(EngineError, match="go build failed: verifying module: checksum mismatch"):
        find.find(tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_build_that_is_killed_leaves_nothing_that_counts(tmp_path: Path) -> None:
    fake_go(tmp_path, f"touch {tmp_path}/begun; sleep 600")
    cache = tmp_path / "cache"
    code = (
        "from stacks.engine import build; from pathlib import Path; "
        f"build.build('go', Path({str(cache / 'go-x')!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.DEVNULL
    ) as run:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGKILL)
    assert not (cache / "go-x").exists()
    assert list(cache.glob("work-*"))
    fake_go(tmp_path)
    build.build("go", cache / "go-x")
    assert [path.name for path in cache.iterdir()] == ["go-x"]


def test_of_two_builds_at_once_the_first_stays(tmp_path: Path) -> None:
    program(tmp_path / "first/bin/pulumi", "echo first")
    program(tmp_path / "second/bin/pulumi", "echo second")
    build.publish(tmp_path / "first", tmp_path / "engine")
    build.publish(tmp_path / "second", tmp_path / "engine")
    assert "first" in (tmp_path / "engine/bin/pulumi").read_text()


def test_the_wrapper_module_pins_the_version_that_is_built() -> None:
    module = (build.MODULE / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{build.VERSION}\n" in module
    sums = (build.MODULE / "go.sum").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{build.VERSION} h1:" in sums


def test_a_host_that_cannot_be_reached_is_given_up_at_once() -> None:
    began = time.monotonic()
    assert find.unreachable(NOWHERE) is not None
    assert time.monotonic() - began < find.REACH_SECONDS
