"""Make an environment with a bot's packages: by uv, as the set-up does, or by pip where there is no uv."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot import versions
from stacks import pip_config
from stacks.commands import run
from stacks.errors import SetupError

NO_SOLUTION = ("No solution found", "ResolutionImpossible")
"""uv's and pip's words for versions that exclude one another."""

LISTED, PINNED = "listed.txt", "pinned.txt"
"""For pip, in the environment: it reads no dependencies of a pyproject.toml, and a pin with a hash makes it
refuse every package without one."""


@dataclass(frozen=True)
class _Installing:
    """A command that installs the bot's packages, and the constraints that it understands."""

    command: Sequence[str]
    pins: Path
    environment: Mapping[str, str] | None = None


def install(directory: Path, file: Path, pins: Path, needed: Sequence[str]) -> None:
    """Make the environment anew.

    Raises:
        SetupError: the packages could not be installed; the text names the bot's file and ends with what
            the tool said.
    """
    shutil.rmtree(directory, ignore_errors=True)  # what a run left that was interrupted
    failure = f"the packages of {file} were not installed"
    tool = uv()
    installing = (
        _with_uv(tool, directory, file, pins, failure) if tool else _with_pip(directory, file, pins, failure)
    )
    command = [*installing.command, *needed]
    try:
        # Where it asks for versions other than ours, it gets them: only then are ours not held to.
        run([*command, "-c", str(installing.pins)], failure, file.parent, installing.environment)
    except SetupError as error:
        if not any(words in str(error) for words in NO_SOLUTION):
            raise
        try:
            run(command, failure, file.parent, installing.environment)
        except SetupError as refused:
            raise SetupError(f"{refused}\nswitchboard: Pipecat {versions.SUPPORTED} works here") from None


def uv() -> str | None:
    """Return the path of uv, which the setup installs beside this Python where it can."""
    return shutil.which("uv", path=os.pathsep.join([str(Path(sys.prefix) / "bin"), os.environ["PATH"]]))


def _with_uv(tool: str, directory: Path, file: Path, pins: Path, failure: str) -> _Installing:
    options = pip_config.parse(run([sys.executable, "-m", "pip", "config", "list"], "pip's configuration"))
    environment = pip_config.environment(options, os.environ)
    run([tool, "venv", "--quiet", "--python", sys.executable, str(directory)], failure, None, environment)
    python = str(directory / "bin" / "python")
    command = [tool, "pip", "install", "--quiet", "--python", python, *pip_config.arguments(options)]
    return _Installing([*command, "-r", str(file)], pins, environment)


def _with_pip(directory: Path, file: Path, pins: Path, failure: str) -> _Installing:
    # Without a pip of its own, as uv makes it: installing one would take longer than most packages.
    run([sys.executable, "-m", "venv", "--without-pip", str(directory)], failure)
    pinned = directory / PINNED
    pinned.write_text("\n".join(re.findall(r"^[^\s#-][^\\\n]*", pins.read_text(), re.MULTILINE)) + "\n")
    if file.suffix == ".toml":
        listed = directory / LISTED
        listed.write_text("\n".join(tomllib.loads(file.read_text())["project"]["dependencies"]) + "\n")
        file = listed
    command = [sys.executable, "-m", "pip", "--python", str(directory), "install", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input"]
    return _Installing([*command, "-r", str(file)], pinned)
