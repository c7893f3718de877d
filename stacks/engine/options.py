"""Options of the command line that say what one run is about, over what the stack's file says."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from stacks.agent_variables import UNSET_VARIABLE
from stacks.errors import ConfigError
from stacks.refusals import masked

NEVER_UP = 4
"""Exit status of `preview --json` where no state of the stack is."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--stack", default="local", help="the stack, a file stacks/Pulumi.<stack>.yaml")
    parser.add_argument("--port", default="", help="the dispatcher's port, for this run")
    parser.add_argument("--bot", default="", help="a bot file, which becomes the default agent `bot`")
    parser.add_argument("--bot-env", default="", help="names of the environment variables that it gets")
    parser.add_argument("--unset", default="", help="names of agents' variables that bots are to do without")


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the config that the command line sets for this run, over the stack's file.

    Raises:
        ConfigError: The bot is no file.
    """
    if options.unset:
        # Where the program reads it, whoever runs that.
        os.environ[UNSET_VARIABLE] = options.unset
    config: dict[str, Any] = {}
    if options.port:
        config["port"] = options.port
    if options.bot:
        path = Path(options.bot).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"BOT: {masked(options.bot)!r} is not a file; "
                "allowed: the path of a Python file with `async def bot(runner_args)`"
            )
        config["agents"] = {
            "bot": {"bot": str(path.resolve()), "env": options.bot_env.replace(",", " ").split()}
        }
        config["defaultAgent"] = "bot"
    return config


def repeated(options: argparse.Namespace) -> list[str]:
    """Return the options, but the stack, for the command line of another process."""
    names = {
        "--port": options.port,
        "--bot": options.bot,
        "--bot-env": options.bot_env,
        "--unset": options.unset,
    }
    return [part for name, value in names.items() if value for part in (name, value)]
