"""Layers: two builds of the same tree give the same ones, and a bot's code is the last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine import Engine
from tests.images.conftest import CHECKOUT, CLOUD_BOT, Build


def layers(engine: Engine, image: str) -> list[str]:
    """The digests of an image's layers."""
    return json.loads(engine.docker("inspect", "--format", "{{json .RootFS.Layers}}", image))


def tree(directory: Path) -> Path:
    """What the images are made from, apart from the checkout."""
    left_out = shutil.ignore_patterns("__pycache__", "node_modules", "dist")
    for name in ("bot", "dispatcher", "images", "tests/images/pipecat_cloud_bot"):
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
