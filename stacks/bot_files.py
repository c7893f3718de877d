"""Bot files of a stack's agents: they exist, and their directories may become images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from dispatcher.settings import AgentSettings
from stacks.errors import ConfigError
from stacks.refusals import masked

# Of the Filesystem Hierarchy Standard; macOS's are elsewhere.
SHARED_DIRECTORIES = frozenset(
    (
        *("/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc", "/root"),
        *("/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/tmp"),  # noqa: S108
        *("/Users", "/private", "/private/etc", "/private/tmp", "/private/var"),
    )
)


def with_bot_files(
    agents: Mapping[str, AgentSettings], prefix: str, checkout: Path, in_images: bool
) -> dict[str, AgentSettings]:
    """The agents with absolute bot files, all of which exist; in an image that there is, nobody looks."""
    found = {}
    for name, agent in agents.items():
        if in_images and agent.image is not None:
            found[name] = agent
            continue
        given = masked(str(agent.bot))
        path = (checkout / agent.bot.expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {given!r} is not there (looked for {masked(str(path))}); "
                "allowed: the path of a Python file with `async def bot(runner_args)`, absolute or from "
                "the checkout"
            )
        if in_images and (whole := why_no_image(path.parent, checkout)):
            raise ConfigError(
                f"{prefix}agents.{name}.bot: {given!r} is refused: all of its directory becomes an "
                f"image, and {path.parent} is {whole}; allowed: a bot file in a directory of its own"
            )
        found[name] = agent.model_copy(update={"bot": path})
    return found


def why_no_image(directory: Path, checkout: Path) -> str:
    """Say what a directory is, with all that lies below it, that nobody means to have in an image; or
    nothing."""
    home = Path(os.path.expanduser("~")).resolve()  # without an error where there is none
    if home.is_relative_to(directory):
        return "your home directory, or above it"
    if checkout.resolve().is_relative_to(directory):
        return "the checkout, or above it"
    if str(directory) in SHARED_DIRECTORIES or directory == Path(tempfile.gettempdir()).resolve():
        return "a directory of the system's"
    return ""
