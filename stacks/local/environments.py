"""Environments of bots with packages of their own: made once for each content.

An environment is kept in the user's cache, beside the engine, under the hash of what it is made from: the
bot's file, our pins and this Python. Stacks and checkouts share it. It has a stamp when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import (
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from bot import versions
from stacks.core_config import CoreConfig
from stacks.engine.find import cache_directory
from stacks.errors import ConfigError
from stacks.local import packages
from stacks.shared import bot_packages
from stacks.shared.dynamic import end_with_engine, plain_errors

PINS = "requirements.txt"
"""Pins of the checkout: the versions that a bot gets unless its own file asks for others."""

RUNTIME = ("fastapi", "httpx", "loguru", "pydantic", "setproctitle", "uvicorn", "websockets")
"""Packages that `python -m bot` and its template import, beside Pipecat."""

STAMP = ".switchboard"
KEPT = 20
KEPT_SECONDS = 30 * 86_400.0
"""Beyond `KEPT` environments, those go that no `make up` asked for in so long: a stack may run in them."""

INPUTS = ("directory", "file", "pins", "requirements")


def requirements(transports: Sequence[str]) -> list[str]:
    """Return what a bot's environment needs for Switchboard itself."""
    extras = ",".join(sorted({"silero", "webrtc", *({"daily", "websocket"} & set(transports))}))
    return [f"{versions.PACKAGE}[{extras}]{versions.REQUIREMENT}", *RUNTIME]


def directory_of(file: Path, pins: Path, needed: Sequence[str]) -> Path:
    """Return where the environment of this content is, whether it has been made or not."""
    system = [platform.python_version(), sys.platform, platform.machine(), sys.base_prefix]
    digest = hashlib.sha256(json.dumps([system, list(needed), file.name]).encode())
    for content in (*bot_packages.contents(file), *bot_packages.contents(pins)):
        digest.update(hashlib.sha256(content).digest())
    return cache_directory().with_name("environments") / digest.hexdigest()[:16]


def make(directory: Path, file: Path, pins: Path, needed: Sequence[str]) -> None:
    """Make the environment, unless it is there. Another `make up` that makes it is waited for.

    Raises:
        SetupError: the packages could not be installed; the text names the bot's file.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory.with_suffix(".lock")):
        if not (directory / STAMP).is_file():
            packages.install(directory, file, pins, needed)
        (directory / STAMP).touch()
    _prune(directory.parent)


def installed_pipecat(python: Path) -> str:
    """Return the version of Pipecat beside an interpreter; empty where none is found.

    Read from the directories' names: the interpreter would take longer to start than the rest of a plan.
    """
    name = versions.PACKAGE.replace("-", "_")
    found = python.parent.parent.glob(f"lib/python3*/site-packages/{name}-*.dist-info")
    return next((path.name.removeprefix(f"{name}-").removesuffix(".dist-info") for path in found), "")


def warn_of(agent: str, python: Path) -> None:
    """Say that an agent's environment has a version of Pipecat that was not tested, if it does."""
    if warning := versions.untested(installed_pipecat(python)):
        pulumi.log.warn(f"agent {agent}: {warning}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prune(root: Path) -> None:
    stamps = sorted(root.glob(f"*/{STAMP}"), key=lambda stamp: stamp.stat().st_mtime, reverse=True)
    for stamp in stamps[KEPT:]:
        if time.time() - stamp.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(stamp.parent, ignore_errors=True)
            stamp.parent.with_suffix(".lock").unlink(missing_ok=True)


class EnvironmentProvider(ResourceProvider):
    """Make the environment. It is a cache's: the end of a stack leaves it to the next one."""

    # It holds nothing but its own name.
    serialize_as_secret_always = False

    def configure(self, req: ConfigureRequest) -> None:
        end_with_engine()

    @plain_errors
    def create(self, props: dict[str, Any]) -> CreateResult:
        _make(props)
        return CreateResult(props["directory"], {key: props[key] for key in INPUTS})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        changed = any(_olds.get(key) != _news.get(key) for key in INPUTS)
        return DiffResult(changes=changed or not (Path(_news["directory"]) / STAMP).is_file())

    @plain_errors
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        _make(_news)
        return UpdateResult({key: _news[key] for key in INPUTS})

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        there = (Path(props["directory"]) / STAMP).is_file()
        return ReadResult(id_, props) if there else ReadResult("", {})


class BotEnvironment(Resource, module="switchboard", name="BotEnvironment"):
    """The environment of one agent's bot."""

    def __init__(self, name: str, properties: dict[str, Any]) -> None:
        super().__init__(EnvironmentProvider(), name, properties)


def _make(props: dict[str, Any]) -> None:
    make(Path(props["directory"]), Path(props["file"]), Path(props["pins"]), props["requirements"])


def with_environments(config: CoreConfig, checkout: Path) -> tuple[CoreConfig, list[Resource]]:
    """Describe the environments of the agents whose bots have packages of their own.

    Returns the config, in which these agents have their interpreters, and the resources.

    Raises:
        ConfigError: an agent's own `python` is not there, or its pyproject.toml cannot be read.
    """
    agents = dict(config.agents)
    made: list[Resource] = []
    for name, agent in config.agents.items():
        if agent.python is not None:
            # Not resolved: an environment is where its link to Python lies.
            python = checkout / agent.python.expanduser()
            if not os.access(python, os.X_OK):
                raise ConfigError(
                    f"switchboard:agents.{name}.python: {str(agent.python)!r} is not there (looked for "
                    f"{python}); allowed: a Python "
                    f"with pipecat-ai {versions.SUPPORTED} and the bot's packages"
                )
            warn_of(name, python)
        else:
            file, needed = bot_packages.find(agent.bot, checkout), requirements(agent.transports)
            if file is None:
                continue
            directory = directory_of(file, checkout / PINS, needed)
            python = directory / "bin" / "python"
            properties = {
                "directory": str(directory),
                "file": str(file),
                "pins": str(checkout / PINS),
                "requirements": needed,
            }
            environment = BotEnvironment(f"{name}-packages", properties)
            # Known once it is made; what the file asks for does not tell what is installed.
            environment.id.apply(lambda _, name=name, python=python: warn_of(name, python))
            made.append(environment)
            pulumi.log.info(f"agent {name}: its packages are those of {file}")
        agents[name] = agent.model_copy(update={"python": python})
    return config.model_copy(update={"agents": agents}), made
