"""Search for the engine: the one on PATH, else the official one installed, else one built from Go modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from pulumi.automation import PulumiCommand
from semver import VersionInfo

from stacks.engine import build
from stacks.errors import EngineError
from stacks.progress import say, step

# The first that knows the flags that the Automation API of the pinned SDK passes.
OLDEST = VersionInfo(3, 150)
INSTALLER = "https://get.pulumi.com/install.sh"
# Where the network drops packets instead of refusing them, nothing else would end the wait.
REACH_SECONDS = 5.0


def cache_directory() -> Path:
    """Outside the checkout, so that every clone and `git clean` finds the engine again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "switchboard" / "engine"


def find(cache: Path | None = None) -> PulumiCommand:
    """The engine, made ready if need be. Raises EngineError that says what was tried and what helps."""
    found = _made(cache)
    if found is not None:
        return found
    directory = cache or cache_directory()
    built, installed = directory / f"go-{build.VERSION}", directory / "official"
    tried = ["no pulumi on PATH"]
    refusal = unreachable(INSTALLER)
    if refusal is None:
        try:
            return _install(installed)
        except (OSError, subprocess.SubprocessError, urllib.error.URLError) as error:
            refusal = f"it failed: {_first_line(error)}"
    tried.append(f"the official installer: {refusal}")
    go = shutil.which("go")
    if go is None:
        tried.append("no go on PATH to build it with")
        raise EngineError(
            f"the Pulumi engine is missing: {'; '.join(tried)}. Install Pulumi (at least {OLDEST}) or "
            "Go, and run this again"
        )
    say(f"engine: {'; '.join(tried)}; it is built from its Go module (downloads 160 MB, once)")
    try:
        build.build(go, built)
    except EngineError as error:
        raise EngineError(f"the Pulumi engine is missing: {'; '.join(tried)}; {error}") from None
    return PulumiCommand(root=str(built))


def find_made(cache: Path | None = None) -> PulumiCommand:
    """Return the engine that is here. Raises EngineError if there is none: nothing is installed or built."""
    found = _made(cache)
    if found is None:
        raise EngineError("no Pulumi engine is here; `.venv/bin/python -m stacks.engine install` gets one")
    return found


def _made(cache: Path | None) -> PulumiCommand | None:
    on_path = _on_path()
    if on_path is not None:
        return on_path
    directory = cache or cache_directory()
    for root in (directory / "official", directory / f"go-{build.VERSION}"):
        if (root / "bin" / "pulumi").is_file():
            return PulumiCommand(root=str(root))
    return None


def _on_path() -> PulumiCommand | None:
    path = shutil.which("pulumi")
    if path is None:
        return None
    try:
        command = PulumiCommand(skip_version_check=True)
    except (OSError, subprocess.SubprocessError) as error:
        say(f"engine: {path} is not used: {_first_line(error)}")
        return None
    if command.version is None or command.version < OLDEST:
        say(f"engine: {path} is not used: it is version {command.version}, at least {OLDEST} is needed")
        return None
    return command


def unreachable(url: str, seconds: float = REACH_SECONDS) -> str | None:
    """None when the URL answers in time; else why not."""
    try:
        with urllib.request.urlopen(url, timeout=seconds):  # noqa: S310 - a constant https URL
            return None
    except urllib.error.HTTPError as error:
        return f"answers with status {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"


def _install(target: Path) -> PulumiCommand:
    with (
        build.scratch(target.parent) as work,
        step("installing the Pulumi engine with its official installer (downloads about 100 MB)"),
    ):
        PulumiCommand.install(root=str(work / "engine"))
        build.publish(work / "engine", target)
    return PulumiCommand(root=str(target))


def _first_line(error: Exception) -> str:
    output = getattr(error, "output", None)
    text = output.decode(errors="replace") if isinstance(output, bytes) else str(error)
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
