"""Versions of Pipecat: refused where they cannot work, and warned about where they were not tried."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bot.versions import NEWEST, OLDEST, unsupported, untested
from tests.patience import PATIENCE
from tests.stacks.checkouts import REPOSITORY

NEWER = f"{NEWEST[0]}.{NEWEST[1] + 1}.0"


@pytest.mark.parametrize("version", ["1.0.0", "1.6.9", "0.0.95", "2.0", "10.1"])
def test_version_outside_the_supported_ones_is_refused(version: str) -> None:
    assert unsupported(version).startswith(f"Pipecat {version} is not supported: versions 1.7 to 1.14 are.")
    assert untested(version) == ""


@pytest.mark.parametrize("version", ["1.7.0", "1.14.0", "1.14.3.dev1", "", "0+unknown", "abc"])
def test_version_that_was_tried_is_neither_refused_nor_warned_about(version: str) -> None:
    assert (unsupported(version), untested(version)) == ("", "")


@pytest.mark.parametrize("version", [NEWER, "1.99.1", "1.100.0rc1"])
def test_version_newer_than_tested_is_warned_about_with_the_tested_ones(version: str) -> None:
    assert unsupported(version) == ""
    assert untested(version).startswith(
        f"Pipecat {version} is newer than the versions tested here, 1.7 to 1.14."
    )


def checked(directory: Path, version: str) -> tuple[int, str]:
    """Run the check as a build does, beside the metadata of a version; return its status and words."""
    info = directory / f"pipecat_ai-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pipecat-ai\nVersion: {version}\n")
    command = [sys.executable, str(REPOSITORY / "bot" / "versions.py")]
    environment = {"PYTHONPATH": str(directory)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stderr.strip()


def test_check_of_an_environment_warns_about_a_newer_version(tmp_path: Path) -> None:
    assert checked(tmp_path, NEWER) == (0, f"warning: {untested(NEWER)}")


def test_check_of_an_environment_refuses_an_old_version(tmp_path: Path) -> None:
    assert checked(tmp_path, "1.0.0") == (1, f"error: {unsupported('1.0.0')}")


def test_check_of_an_environment_says_nothing_of_a_tested_version(tmp_path: Path) -> None:
    assert checked(tmp_path, f"{OLDEST[0]}.{OLDEST[1]}.0") == (0, "")
