"""Bots from outside the checkout, built as the `docker` stack describes them: with named contexts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.base_image import NoBase, import_base
from tests.engine import Engine
from tests.images.conftest import registry_secrets
from tests.stacks.hands import IMAGE, build_arguments
from tests.stacks.record import recorded

BOT = """\
import {package}
from neighbour import GREETING

async def bot(runner_args):
    print(GREETING)
"""

LOOK = """\
import importlib.metadata, json, os, runpy
bot = os.environ["SWITCHBOARD_BOT_FILE"]
print(json.dumps({
    "bot": bot,
    "has": sorted(name for name in os.listdir("/app") if name != "__pycache__"),
    "greeting": runpy.run_path(bot)["GREETING"],
    "packages": {one.name: one.version for one in importlib.metadata.distributions()},
}))
"""


def bot_directory(directory: Path, package: str, greeting: str) -> Path:
    """Make a directory with a bot, what it imports, and a secret; return its bot file."""
    directory.mkdir(parents=True)
    (directory / "mine.py").write_text(BOT.format(package=package))
    (directory / "neighbour.py").write_text(f"GREETING = {greeting!r}\n")
    (directory / ".env").write_text("OPENAI_API_KEY=sk-secret\n")
    return directory / "mine.py"


@pytest.fixture(scope="module")
def base(recent_engine: Engine) -> str:
    try:
        return import_base(recent_engine)
    except NoBase as missing:
        pytest.skip(str(missing))


def described(bot: Path, base: str, socket: Path) -> dict[str, Any]:
    """Return the inputs of the bot's image, as the program describes it."""
    config = {
        "switchboard:cloud": "docker",
        "switchboard:agents": json.dumps({"mine": {"bot": str(bot)}}),
        "switchboard:docker": json.dumps({"base": base, "host": f"unix://{socket}"}),
    }
    told = recorded(config, os.environ)
    assert "error" not in told, told
    (inputs,) = (
        one["inputs"]
        for name, one in told["resources"].items()
        if one["type"] == IMAGE and name.startswith("bot-")
    )
    return inputs


def built(engine: Engine, inputs: dict[str, Any]) -> dict[str, Any]:
    """Build the image; return what is in it, by a container of it."""
    left, (tag,) = dict(inputs), inputs["tags"]
    engine.build(*registry_secrets(), *build_arguments(left))
    assert not left, sorted(left)
    python = ("--entrypoint", "/opt/venv/bin/python", tag, "-c", LOOK)
    return json.loads(engine.docker("run", "--rm", "--network", "none", *python))


def test_its_files_and_the_packages_beside_it_are_in_the_image(
    recent_engine: Engine, base: str, tmp_path: Path
) -> None:
    bot = bot_directory(tmp_path / "theirs", "tabulate", "from beside")
    (bot.parent / "requirements.txt").write_text("tabulate==0.9.0\n")
    inputs = described(bot, base, recent_engine.socket)
    assert set(inputs["context"]["named"]) == {"bot-files"}
    found = built(recent_engine, inputs)
    # Neither the checkout's own bots, which the Dockerfile has by default, nor the secret.
    assert found["has"] == ["mine.py", "neighbour.py", "requirements.txt"]
    assert (found["bot"], found["greeting"]) == ("/app/mine.py", "from beside")
    assert found["packages"]["tabulate"] == "0.9.0"


def test_packages_listed_above_it_are_in_the_image(recent_engine: Engine, base: str, tmp_path: Path) -> None:
    project = tmp_path / "project"
    bot = bot_directory(project / "server", "iniconfig", "from below")
    (project / ".git").mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "theirs"\nversion = "1"\ndependencies = ["iniconfig==2.0.0"]\n'
    )
    inputs = described(bot, base, recent_engine.socket)
    assert set(inputs["context"]["named"]) == {"bot-files", "bot-requirements"}
    found = built(recent_engine, inputs)
    assert found["has"] == ["mine.py", "neighbour.py"]
    assert (found["bot"], found["greeting"]) == ("/app/mine.py", "from below")
    assert found["packages"]["iniconfig"] == "2.0.0"
    assert "tabulate" not in found["packages"]
