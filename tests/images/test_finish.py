"""Bytecode of an image's packages: which modules have some, and what is not in it."""

from __future__ import annotations

import importlib.util
import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.base import remove_orphans
from images.finish import is_rare
from tests.images.conftest import CHECKOUT

DOCUMENTED = '''"""A module."""
class Thing:
    """A thing."""
    def does(self):
        """Do it."""
        return 1
'''


KEPT = {
    "pipecat/frames/frames.py": False,
    "websockets/client.py": False,
    # A model reads those of tools; numpy completes its own.
    "pipecat/workers/ui/ui_tools.py": True,
    "numpy/lib/core.py": True,
    "of_the_bots_own/tools.py": True,
}
"""Module → whether its bytecode has docstrings."""

THERE = {
    "import json, yaml\nfrom google.protobuf import message\nfrom pipecat.frames import frames": True,
    "try:\n    import deepgram\nexcept ImportError:\n    deepgram = None": True,
    "def late():\n    import deepgram": True,
    "import deepgram": False,
    "from google.genai import types": False,
    "try:\n    import deepgram\nexcept ImportError as e:\n    raise Exception('missing') from e": False,
}
"""Text of a module of Pipecat's → whether it has bytecode."""

FILES = {
    **dict.fromkeys(KEPT, DOCUMENTED),
    **{f"pipecat/services/some{number}.py": text for number, text in enumerate(THERE)},
    "yaml.py": "",
    "google/protobuf/message.py": "",
    "pipecat/__init__.py": "",
    "some/template.py": "import {{ name }}",
    "some/good.py": "A = 1",
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site-packages of a tree that was finished as a build does it."""
    out = tmp_path_factory.mktemp("finished") / "out"
    packages = out / "opt/venv/lib/python3.13/site-packages"
    for name, text in FILES.items():
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_text(text)
    command = [sys.executable, str(CHECKOUT / "images" / "finish.py"), str(out)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return packages


def bytecode(module: Path) -> Path:
    return Path(importlib.util.cache_from_source(module))


def docstrings(module: Path) -> list[str | None]:
    names: dict[str, object] = {"__name__": "finished"}
    exec(marshal.loads(bytecode(module).read_bytes()[16:]), names)
    thing = names["Thing"]
    return [names.get("__doc__"), thing.__doc__, thing.does.__doc__]  # pyright: ignore


@pytest.mark.parametrize("name", KEPT)
def test_docstrings_are_left_out_of_packages_that_do_not_read_them(packages: Path, name: str) -> None:
    assert docstrings(packages / name) == (["A module.", "A thing.", "Do it."] if KEPT[name] else [None] * 3)
    assert (packages / name).read_text() == DOCUMENTED


@pytest.mark.parametrize(("number", "text"), list(enumerate(THERE)))
def test_pipecats_modules_have_bytecode_when_their_packages_are_there(
    packages: Path, number: int, text: str
) -> None:
    assert bytecode(packages / f"pipecat/services/some{number}.py").exists() == THERE[text]


def test_bytecode_is_valid_by_its_hash_and_names_the_file_in_the_image(packages: Path) -> None:
    module = packages / "pipecat/frames/frames.py"
    content = bytecode(module).read_bytes()
    assert content[:4] == importlib.util.MAGIC_NUMBER
    assert content[4:8] == b"\x01\0\0\0"
    assert content[8:16] == importlib.util.source_hash(module.read_bytes())
    code = marshal.loads(content[16:])
    assert code.co_filename == "/opt/venv/lib/python3.13/site-packages/pipecat/frames/frames.py"


@pytest.mark.parametrize(
    ("name", "standard", "rare"),
    [
        ("openai/types/evals/run.py", False, True),
        ("openai/types/responses/response.py", False, False),
        ("numpy/ma/core.py", False, True),
        ("numpy/matlib.py", False, False),
        ("PIL/FitsImagePlugin.py", False, True),
        ("PIL/JpegImagePlugin.py", False, False),
        ("aiohttp/web_app.py", False, True),
        ("aiohttp/client.py", False, False),
        ("turtle.py", False, False),
        ("turtle.py", True, True),
        ("encodings/mac_greek.py", True, True),
        ("encodings/utf_8.py", True, False),
        ("xml/etree/ElementTree.py", True, False),
    ],
)
def test_what_no_session_loads_has_no_bytecode(name: str, standard: bool, rare: bool) -> None:
    assert is_rare(name, standard=standard) == rare


def test_the_standard_library_has_no_docstrings_and_not_all_bytecode(tmp_path: Path) -> None:
    library = tmp_path / "usr/lib/python3.13"
    library.mkdir(parents=True)
    for name in ("inspect.py", "turtle.py"):
        (library / name).write_text(DOCUMENTED)
    command = [sys.executable, str(CHECKOUT / "images" / "finish.py"), str(tmp_path)]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": "0"}, check=True, capture_output=True)
    assert docstrings(library / "inspect.py") == [None] * 3
    assert not bytecode(library / "turtle.py").exists()


def test_files_that_are_not_python_are_skipped(packages: Path) -> None:
    assert [path.name.partition(".")[0] for path in (packages / "some").rglob("*.pyc")] == ["good"]


def test_libraries_go_when_nothing_names_them(tmp_path: Path) -> None:
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    programs = tmp_path / "usr/bin"
    for directory in (libraries, programs):
        directory.mkdir(parents=True)
    elf = b"\x7fELF"
    (libraries / "libmount.so.1").write_bytes(elf + b"libblkid.so.1\0libselinux.so.1\0")
    (libraries / "libblkid.so.1").write_bytes(elf)
    (libraries / "libsystemd.so.0").write_bytes(elf)
    (programs / "logs").write_bytes(elf + b"libsystemd.so.0\0")
    assert remove_orphans(tmp_path) == ["libmount1", "libblkid1"]
    assert [path.name for path in libraries.iterdir()] == ["libsystemd.so.0"]
