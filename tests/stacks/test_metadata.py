"""The metadata that lies beside the packages: their entry points are found by it."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

from dispatcher.version import VERSION
from stacks.metadata import CHECKOUT, DIRECTORY, contents
from tests.patience import PATIENCE


def test_metadata_is_that_of_pyproject():
    for path, text in contents(CHECKOUT).items():
        assert (CHECKOUT / path).read_text() == text, "run: python3 -m stacks.metadata"


def test_metadata_is_found():
    assert importlib.metadata.version("switchboard") == VERSION


def test_checkout_without_metadata_says_what_to_run(tmp_path: Path):
    ignored = shutil.ignore_patterns("__pycache__", "web")
    for package in ("bot", "dispatcher"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=ignored)
    assert not (tmp_path / DIRECTORY).exists()
    command = [sys.executable, "-m", "dispatcher"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr == (
        "dispatcher: no transport is registered: the metadata of switchboard is not beside dispatcher/; "
        "run: python3 -m stacks.metadata\n"
    )
