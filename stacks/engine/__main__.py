"""`python -m stacks.engine VERB`: what `make up`, `make plan`, `make down` and others run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pulumi.automation import OutputValue

from stacks.engine.consent import Consent
from stacks.engine.drift import FOUND_DRIFT
from stacks.engine.drive import Driver
from stacks.engine.find import find, find_made
from stacks.engine.options import NEVER_UP, add, overrides
from stacks.errors import ChangesError, exit_status
from stacks.progress import duration, say

TOTALS = (" unchanged", ": nothing to change")
"""Ends of lines that sum up the steps of a preview."""

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
    consent = Consent(
        confirmed=frozenset(options.confirm.replace(",", " ").split()),
        yes=options.yes == "1",
        ask=input if sys.stdin.isatty() else None,
    )
    given = overrides(options)
    if options.verb == "preview" and options.json:
        return _preview_as_json(options, given)
    driver = Driver(CHECKOUT, options.stack, find, overrides=given)
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


def _preview_as_json(options: argparse.Namespace, given: Mapping[str, Any]) -> int:
    """Write a preview as JSON, for `stacks.plan`: its steps, and lines of warnings and notices."""
    said: list[str] = []
    driver = Driver(CHECKOUT, options.stack, find_made, overrides=given, out=said.append)
    if driver.workspace.never_up:
        return NEVER_UP
    try:
        driver.preview()
    finally:
        steps = {line for one in driver.planned for line in one.lines}
        notes = [line.strip() for line in said if line not in steps and not line.endswith(TOTALS)]
        json.dump({"steps": [asdict(one) for one in driver.planned], "notes": notes}, sys.stdout)
    return 0


def next_steps(outputs: Mapping[str, OutputValue]) -> list[str]:
    """Return the lines that say how to start a session, and which DNS records have to be there."""
    lines = []
    if "start" in outputs:
        lines += ["start a session:", f"  {outputs['start'].value}"]
    if "records" in outputs and (records := outputs["records"].value):
        lines += ["DNS records that have to be there:", *(f"  {record}" for record in records)]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stacks.engine", description="Runs a stack with the Pulumi engine.")
    parser.add_argument("verb", choices=["up", "preview", "refresh", "drift", "destroy", "install"])
    add(parser)
    parser.add_argument(
        "--expect-no-changes",
        action="store_true",
        help="with preview: exit with status 7 if there are changes",
    )
    parser.add_argument("--json", action="store_true", help="with preview: the steps alone, as JSON")
    parser.add_argument("--confirm", default="", help="names of what holds data and may be deleted")
    parser.add_argument("--yes", default="", choices=["", "0", "1"], help="1: take the service down unasked")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
