"""A bot that uses every service of Pipecat builds with the packages that it lists."""

import json

import pytest

from tests.engine import Engine
from tests.images.conftest import Build
from tests.images.test_bot_image import CONFINED

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

IMPORT = """
import importlib.util as util, json, sys
spec = util.spec_from_file_location("the_bot", "/app/bot.py")
module = util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps({"imported": module.IMPORTED, "failed": module.FAILED}))
"""

NEED_TORCH = {f"pipecat.services.{name}" for name in ("funasr.stt", "moondream.vision", "pocket_tts.tts")}
"""Services that run a model of PyTorch in the bot itself; its requirements name no PyTorch."""

LEAST = 200
"""Modules of services in the oldest Pipecat that such a list resolves to."""


def test_a_bot_imports_every_service_that_its_requirements_name(engine: Engine, build: Build) -> None:
    image = build("bot", BOT_DIR="tests/images/services_bot")
    # `mem0` makes a directory in its home as it is imported.
    command = ("run", "--rm", "--network", "none", *CONFINED, "--tmpfs", "/tmp", "--entrypoint", "python")
    said = json.loads(engine.docker(*command, image, "-P", "-c", IMPORT).splitlines()[-1])
    assert said["failed"].keys() == NEED_TORCH, said["failed"]
    assert len(said["imported"]) >= LEAST
    size = int(engine.docker("inspect", "--format", "{{.Size}}", image))
    print(f"{len(said['imported'])} modules; the image has {size / 1e6:.0f} MB")
