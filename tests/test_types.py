"""The types of the whole repository: a test like any other, since it takes one core for most of a minute."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_types() -> None:
    pyright = Path(sys.executable).with_name("pyright")
    result = subprocess.run(
        [pyright, "--warnings"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
