"""Makes a key, and the entry that the settings need for it: `make key NAME=…`.

Without a checkout `python -m dispatcher new-key NAME` does the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from pydantic import ValidationError

from dispatcher.keys import NAME_WORDS, KeyScope, KeySettings, hash_of, new_key
from dispatcher.refusals import in_words

OPTIONS = {
    "name": "NAME: ",
    "agents": "--agent: ",
    "origins": "--origin: ",
    "rate.per_second": "--per-second: ",
    "rate.burst": "--burst: ",
}
"""Fields of an entry, and the options that they come from."""


def command(arguments: Sequence[str]) -> int:
    """Print a new key, this once, and its entry; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.burst is not None and options.per_second is None:
        parser.error(f"--burst: {options.burst} is refused; allowed: with --per-second only")
    key = new_key(public=bool(options.origin))
    try:
        entry = _entry(options, key)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            place = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int))
            print(f"dispatcher: {OPTIONS.get(place, '')}{in_words(fault)}", file=sys.stderr)
        return 2
    print(f"The key, shown only this once and stored nowhere:\n\n  {key}\n")
    print(f"Its entry for the setting 'keys', which contains no secret:\n\n  {entry}")
    return 0


def _entry(options: argparse.Namespace, key: str) -> str:
    values: dict[str, Any] = {"name": options.name, "hash": hash_of(key), "scope": options.scope}
    if options.agent:
        values["agents"] = options.agent
    if options.origin:
        values["origins"] = options.origin
    if options.per_second is not None:
        values["rate"] = {
            "per_second": options.per_second,
            "burst": 1 if options.burst is None else options.burst,
        }
    if options.days is not None:
        now = datetime.now(UTC).replace(microsecond=0)
        values["expires_at"] = now + timedelta(days=options.days)
    entry = KeySettings.model_validate(values)
    return json.dumps(entry.model_dump(mode="json", by_alias=True, exclude_unset=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dispatcher new-key",
        description="Make a key. For the one that replaces it, run it again with the same name and options.",
    )
    parser.add_argument("name", metavar="NAME", help=f"whose key it is: {NAME_WORDS}")
    parser.add_argument("--scope", choices=get_args(KeyScope), default="start", help="default: start")
    parser.add_argument("--agent", action="append", help="an agent that it is valid for; default: all")
    parser.add_argument(
        "--origin", action="append", help="a site whose pages may use it, which makes it a public key"
    )
    parser.add_argument("--per-second", type=float, help="how many sessions it may start in the long run")
    parser.add_argument("--burst", type=int, help="and how many of them at once; default: 1")
    parser.add_argument(
        "--days", type=int, choices=range(1, 3651), metavar="1..3650", help="default: for ever"
    )
    return parser
