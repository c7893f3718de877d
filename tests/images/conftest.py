"""Images are built in an engine of the tests' own, and what was built before is in its cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import Engine

CHECKOUT = Path(__file__).resolve().parents[2]

Build = Callable[..., str]

# How this machine reaches package registries, where it does so in a way of its own: secret -> files.
REGISTRIES = {
    "pip.conf": ("~/.config/pip/pip.conf", "/etc/pip.conf"),
    "uv.toml": ("~/.config/uv/uv.toml", "/etc/uv/uv.toml"),
    "npmrc": ("~/.npmrc",),
}


# The arguments of the bot images on which the packages in them depend.
CLOUD_BOT = {"BOT_DIR": "tests/images/pipecat_cloud_bot"}
ECHO = {"BOT_FILE": "echo.py", "TRANSPORTS": "webrtc"}
DAILY = {"BOT_FILE": "voice.py", "TRANSPORTS": "daily"}


def registry_secrets() -> list[str]:
    """Arguments of `docker build`."""
    arguments = []
    for secret, places in REGISTRIES.items():
        found = next((path for path in map(os.path.expanduser, places) if os.path.exists(path)), None)
        if found is not None:
            arguments += ["--secret", f"id={secret},src={found}"]
    return arguments


def build_arguments(name: str, context: Path, arguments: dict[str, str]) -> list[str]:
    """Arguments of `docker build`."""
    return [
        *("--file", str(context / "images" / f"{name}.Dockerfile"), *registry_secrets()),
        *(text for key, value in arguments.items() for text in ("--build-arg", f"{key}={value}")),
        str(context),
    ]


@pytest.fixture(scope="session")
def build(engine: Engine, base_image: str) -> Build:
    """Build an image: `build("bot", BOT_DIR="…")` gives its id."""

    def run(name: str, *options: str, context: Path = CHECKOUT, **arguments: str) -> str:
        return engine.build(*options, *build_arguments(name, context, {"BASE": base_image, **arguments}))

    return run


@pytest.fixture(scope="session")
def bot_image(build: Build) -> str:
    """A bot that was written for Pipecat Cloud, for all transports."""
    return build(
        *("bot", "--tag", "switchboard-test/bot"),
        **CLOUD_BOT,
        REVISION="0123abcd",
        VERSION="9.8.7",
    )
