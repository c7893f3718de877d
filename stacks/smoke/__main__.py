"""`python -m stacks.smoke --stack STACK`: one real session of a deployed stack, from its start to its end.

It tells each step of the call with its seconds, and what the session cost. The exit status is 0 only if the
bot was heard (over Daily: joined) and the session's end was seen. SWITCHBOARD_KEY is a key of scope `start`.
"""

from __future__ import annotations

import argparse
import os
import sys

from stacks.engine.__main__ import CHECKOUT
from stacks.engine.drive import Driver
from stacks.engine.find import find
from stacks.errors import SmokeError, exit_status
from stacks.prices import Price
from stacks.progress import say
from stacks.smoke.http import KEY_VARIABLE
from stacks.smoke.run import run, summary


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="stacks.smoke", description="Runs one real session.")
    parser.add_argument("--stack", default="local")
    parser.add_argument("--agent", default="", help="by default the stack's default agent")
    options = parser.parse_args(arguments)
    return exit_status(lambda: _smoke(options))


def _smoke(options: argparse.Namespace) -> None:
    driver = Driver(CHECKOUT, options.stack, find)
    outputs = driver.outputs()
    if "url" not in outputs:
        raise SmokeError(f"stack {options.stack} is not up; `make up STACK={options.stack}` brings it up")
    url, _, page_key = str(outputs["url"].value).partition("/#key=")
    joined = run(url, os.environ.get(KEY_VARIABLE) or page_key, options.agent or None)
    prices = outputs["prices"].value if "prices" in outputs else {}
    price = Price.from_shown(prices[joined.agent]) if joined.agent in prices else None
    say(summary(joined, price))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
