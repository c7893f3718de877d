"""The sources of the images, as far as they can be checked without a build."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bot.packages import NEWEST_PIPECAT, OLDEST_PIPECAT
from stacks.docker.images import DISPATCHER_SOURCES
from tests.images.conftest import CHECKOUT

IMAGES = CHECKOUT / "images"
GROUPS = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["dependency-groups"]
LEFT_OUT = [
    Requirement(line)
    for line in (IMAGES / "overrides.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def pins(path: str) -> dict[str, set[str]]:
    """Package -> its versions; there may be several, for several Pythons."""
    found: dict[str, set[str]] = {}
    text = (CHECKOUT / path).read_text()
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", text, re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def group(name: str) -> list[str]:
    """The packages that a dependency group names."""
    names: list[str] = []
    for entry in GROUPS[name]:
        if isinstance(entry, dict):
            names += group(entry["include-group"])
        else:
            names.append(canonicalize_name(Requirement(entry).name))
    return names


@pytest.mark.parametrize("name", [name for name in GROUPS if name != "bot"])
def test_an_image_has_the_versions_that_are_tested(name: str) -> None:
    pinned, tested = pins(f"images/requirements-{name}.txt"), pins("requirements.txt")
    assert set(group(name)) <= set(pinned), "run `make lock`"
    differing = {package for package in set(pinned) & set(tested) if pinned[package] != tested[package]}
    assert not differing, "run `make lock`"


@pytest.mark.parametrize("path", sorted(IMAGES.glob("requirements-*.txt")), ids=lambda path: path.name)
def test_every_pin_has_hashes_and_no_registry(path) -> None:
    text = path.read_text()
    assert len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)) == len(
        re.findall(r"^[a-z0-9._-]+==[^\n]*\\\n +--hash=sha256:", text, re.MULTILINE)
    )
    assert "://" not in text


@pytest.mark.parametrize("left_out", LEFT_OUT, ids=lambda requirement: requirement.name)
def test_what_is_left_out_is_asked_for_and_not_pinned(left_out: Requirement) -> None:
    """An override that nothing needs any more is dead."""
    assert canonicalize_name(left_out.name) in pins("requirements.txt")
    for path in IMAGES.glob("requirements-bot-*.txt"):
        assert canonicalize_name(left_out.name) not in pins(f"images/{path.name}")


def test_image_and_runtime_agree_on_the_versions_of_pipecat() -> None:
    oldest = ".".join(map(str, OLDEST_PIPECAT))
    assert f"'pipecat-ai>={oldest},<{NEWEST_PIPECAT[0] + 1}'" in (IMAGES / "packages.sh").read_text()


def test_dispatcher_starts_with_what_its_image_has_of_the_bots(tmp_path: Path) -> None:
    shared = [path for path in DISPATCHER_SOURCES if path.startswith("bot/")]
    copied = re.findall(r"^COPY (bot/.*) /out/", (IMAGES / "dispatcher.Dockerfile").read_text(), re.MULTILINE)
    assert copied == [" ".join(shared)]
    context = (IMAGES / "dispatcher.Dockerfile.dockerignore").read_text().splitlines()
    assert [line for line in context if "bot/" in line] == [f"!{path}" for path in shared]

    ignored = shutil.ignore_patterns("__pycache__", "web", "migrations")
    shutil.copytree(CHECKOUT / "dispatcher", tmp_path / "dispatcher", ignore=ignored)
    (tmp_path / "bot").mkdir()
    for path in shared:
        shutil.copy(CHECKOUT / path, tmp_path / path)
    # The modules that the commands import as they run, too.
    found = (tmp_path / "dispatcher").rglob("*.py")
    paths = [file.relative_to(tmp_path).with_suffix("") for file in found if file.name != "__main__.py"]
    modules = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    run = subprocess.run(
        [sys.executable, "-c", code, *modules], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
