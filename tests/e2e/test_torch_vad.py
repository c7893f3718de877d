"""A call with a bot whose image has torch's detector, of what the package index here has.

PyPI's torch for x86-64 comes with CUDA: the image has some gigabytes, and its build takes as long.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.engine import Engine
from tests.images import conftest as images
from tests.patience import PATIENCE

from .browser import until, visit
from .dispatcher import CHECKOUT
from .test_containers import KEY, dispatcher_of, running
from .test_conversation import FOX

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

build = images.build

TAG = "switchboard-test/torch"

ROOM = 40 * 2**30
"""Bytes on the disk for the build: what is installed, and its layers, more than once."""

SETTINGS = {"cpu": 2, "memoryMb": 4096, "startTimeoutSeconds": 120}


@pytest.fixture
def image(engine: Engine, build: images.Build, tmp_path: Path) -> Iterator[str]:
    if shutil.disk_usage("/").free < ROOM:
        pytest.skip(f"the build needs {ROOM // 2**30} GiB of the disk")
    context = tmp_path / "checkout"
    for name in ("images", "bot"):
        shutil.copytree(CHECKOUT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CHECKOUT / "bot" / "agents", context / "torch-bot")
    shutil.copy(CHECKOUT / "tests" / "images" / "torch_bot" / "torch_echo.py", context / "torch-bot")
    made = build(
        *("bot", "--tag", TAG),
        context=context,
        BOT_DIR="torch-bot",
        BOT_FILE="torch_echo.py",
        TRANSPORTS="webrtc",
        VAD="torch",
        TORCH_INDEX="default",
    )
    size = int(engine.docker("inspect", "--format", "{{.Size}}", made))
    print(f"the image has {size / 1e9:.1f} GB")
    yield made
    engine.docker("rmi", TAG)


def test_a_bot_hears_with_torch(engine: Engine, image: str, browser: Browser, tmp_path: Path) -> None:
    agent = {"bot": "torch_echo.py", **SETTINGS}
    with (
        dispatcher_of(engine, image, tmp_path, **agent) as dispatcher,
        visit(browser, f"{dispatcher.url}/#key={KEY}", scripted=True) as voice,
    ):
        session_id = voice.talk()
        voice.wait_for_sound(seconds=PATIENCE)
        voice.wait_for_silence()
        voice.say(FOX)
        voice.wait_for_sound(seconds=PATIENCE)
        (bot,) = running(engine)
        assert "hears a voice" in engine.docker("logs", bot)
        voice.click("Hang up")
        assert dispatcher.wait_until_over(session_id)["state"] == "ended"
        until(lambda: running(engine) == [], PATIENCE, "the end of the container")
