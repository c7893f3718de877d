"""Layers: two builds of the same tree give the same ones, and a bot's code is the last."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO

import pytest

from tests.engine import Engine
from tests.images.conftest import CHECKOUT, CLOUD_BOT, Build


def layers(engine: Engine, image: str) -> list[str]:
    """Return a digest of each layer's files: names, contents, modes, owners and times.

    Not the layer's own digest: Docker 20.10 writes the same files in one of two orders. Which one depends on
    what it built before.
    """
    with tempfile.TemporaryDirectory() as directory:
        saved = Path(directory, "image.tar")
        engine.docker("save", "--output", str(saved), image)
        with tarfile.open(saved) as archive:
            (manifest,) = json.load(_member(archive, "manifest.json"))
            return [_digest(_member(archive, layer)) for layer in manifest["Layers"]]


def _digest(layer: IO[bytes]) -> str:
    with tarfile.open(fileobj=layer) as files:
        entries = [
            (*sorted(entry.get_info().items()), _sha256(files, entry) if entry.isfile() else None)
            for entry in files
        ]
    return hashlib.sha256(repr(sorted(entries, key=repr)).encode()).hexdigest()


def _sha256(files: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    return hashlib.sha256(_member(files, entry).read()).hexdigest()


def _member(archive: tarfile.TarFile, name: str | tarfile.TarInfo) -> IO[bytes]:
    member = archive.extractfile(name)
    assert member is not None, f"{name} is no file"
    return member


def tree(directory: Path) -> Path:
    """The files that the images are made from, apart from the checkout."""
    left_out = shutil.ignore_patterns("__pycache__", "node_modules", "dist")
    for name in ("bot", "dispatcher", "images", "switchboard.dist-info", "tests/images/pipecat_cloud_bot"):
        shutil.copytree(CHECKOUT / name, directory / name, ignore=left_out)
    shutil.copy(CHECKOUT / "requirements-node.txt", directory)
    return directory


def test_only_the_last_layer_is_the_bots_code(
    engine: Engine, build: Build, bot_image: str, tmp_path: Path
) -> None:
    changed = tree(tmp_path)
    (changed / CLOUD_BOT["BOT_DIR"] / "phrases.py").write_text('GREETING = "a neighbour says goodbye"\n')
    image = build("bot", context=changed, **CLOUD_BOT)
    before, after = layers(engine, bot_image), layers(engine, image)
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]


@pytest.mark.long
def test_two_builds_give_the_same_layers(
    engine: Engine, build: Build, bot_image: str, tmp_path: Path
) -> None:
    """From another copy of the tree, with other times, and nothing of it cached but downloaded packages."""
    again = build("bot", "--no-cache", context=tree(tmp_path), **CLOUD_BOT)
    assert layers(engine, again) == layers(engine, bot_image)
