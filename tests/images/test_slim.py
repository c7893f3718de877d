"""What is removed from an image's packages, where they are unusual."""

import shutil
from pathlib import Path

import pytest

from images.slim import slim

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="there is no `nm`: install binutils")


def test_files_that_are_called_like_libraries_are_left_as_they_are(tmp_path: Path) -> None:
    packages = tmp_path / "opt" / "venv" / "lib" / "python3.13" / "site-packages"
    header = packages / "nvidia" / "include" / "algorithm.sort_heap.h"
    header.parent.mkdir(parents=True)
    header.write_text("// of C++")
    (packages / "PIL").mkdir()
    (packages / "PIL" / "_avif.cpython-313-x86_64-linux-gnu.so").write_text("not even a library")
    slim(tmp_path)
    assert [path.name for path in packages.rglob("*") if path.is_file()] == ["algorithm.sort_heap.h"]


def test_a_library_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "broken.so").write_bytes(b"\x7fELF, and no more")
    with pytest.raises(SystemExit, match=r"slim.py: nm: status 1: .*broken.so"):
        slim(tmp_path)
