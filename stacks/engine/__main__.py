"""`python -m stacks.engine VERB`: what `make up`, `make plan`, `make down` and others run."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulumi.automation import OutputValue

from stacks.agent_variables import UNSET_VARIABLE
from stacks.engine.consent import Consent
from stacks.engine.drift import FOUND_DRIFT
from stacks.engine.drive import Driver
from stacks.engine.find import find
from stacks.errors import ChangesError, ConfigError, exit_status
from stacks.progress import duration, say
from stacks.refusals import masked

CHECKOUT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    found: list[int] = []
    return exit_status(lambda: found.append(_run(options))) or found[0]


def _run(options: argparse.Namespace) -> int:
    """Run the verb; the exit status if nothing fails."""
    began = time.monotonic()
    if options.verb == "install":
        find()
        return 0
    if options.unset:
        # Where the program reads it, whoever runs that.
        os.environ[UNSET_VARIABLE] = options.unset
    consent = Consent(
        confirmed=frozenset(options.confirm.replace(",", " ").split()),
        yes=options.yes == "1",
        ask=input if sys.stdin.isatty() else None,
    )
    driver = Driver(CHECKOUT, options.stack, find, overrides=overrides(options))
    if options.verb == "preview":
        if (changes := driver.preview()) and options.expect_no_changes:
            raise ChangesError(
                f"stack {options.stack} is not as its program says: {changes} to change, and none expected; "
                f"`make up STACK={options.stack}` makes the changes above"
            )
    elif options.verb == "refresh":
        driver.refresh()
    elif options.verb == "drift":
        return FOUND_DRIFT if driver.drift() else 0
    elif options.verb == "destroy":
        driver.destroy(consent)
    else:
        outputs = driver.up(consent)
        took = duration(time.monotonic() - began)
        say(f"stack {options.stack} is up ({took}); log: {outputs['log'].value}")
        for line in next_steps(outputs):
            say(line)
        say(str(outputs["url"].value))
    return 0


def next_steps(outputs: Mapping[str, OutputValue]) -> list[str]:
    """Return the lines that say how to start a session, and which DNS records have to be there."""
    lines = []
    if "start" in outputs:
        lines += ["start a session:", f"  {outputs['start'].value}"]
    if "records" in outputs and (records := outputs["records"].value):
        lines += ["DNS records that have to be there:", *(f"  {record}" for record in records)]
    return lines


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The config that the command line sets for this run, over the stack's file."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stacks.engine", description="Runs a stack with the Pulumi engine.")
    parser.add_argument("verb", choices=["up", "preview", "refresh", "drift", "destroy", "install"])
    parser.add_argument("--stack", default="local")
    parser.add_argument("--port", default="", help="the dispatcher's port, for this run")
    parser.add_argument("--bot", default="", help="a bot file, which becomes the default agent `bot`")
    parser.add_argument("--bot-env", default="", help="names of the environment variables that it gets")
    parser.add_argument(
        "--expect-no-changes",
        action="store_true",
        help="with preview: exit with status 7 if there are changes",
    )
    parser.add_argument("--unset", default="", help="names of agents' variables that bots are to do without")
    parser.add_argument("--confirm", default="", help="names of what holds data and may be deleted")
    parser.add_argument("--yes", default="", choices=["", "0", "1"], help="1: take the service down unasked")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
