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

from stacks.shared.images import DISPATCHER_SOURCES
from tests.images.conftest import CHECKOUT
from tests.patience import PATIENCE

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


def test_dispatchers_image_has_the_modules_of_the_bot_that_it_imports(tmp_path: Path) -> None:
    """Import every module of the dispatcher beside what the Dockerfile copies of the bot."""
    copied = re.search(r"^COPY ((?:bot/\S+ )+)", (IMAGES / "dispatcher.Dockerfile").read_text(), re.MULTILINE)
    assert copied is not None
    (tmp_path / "bot").mkdir()
    for name in copied[1].split():
        assert name in DISPATCHER_SOURCES
        assert f"!{name}" in (IMAGES / "dispatcher.Dockerfile.dockerignore").read_text().splitlines()
        shutil.copy(CHECKOUT / name, tmp_path / name)
    ignored = shutil.ignore_patterns("__pycache__", "web")
    for name in ("dispatcher", "switchboard.dist-info"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=ignored)
    # What alembic runs by itself needs its context.
    left_out = ("dispatcher.store.migrations", "dispatcher.__main__", "dispatcher.engine_proxy.__main__")
    code = f"""
import importlib, pkgutil, dispatcher
for module in pkgutil.walk_packages(dispatcher.__path__, "dispatcher."):
    if not module.name.startswith({left_out}):
        importlib.import_module(module.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
