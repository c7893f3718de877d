"""`python -m stacks.smoke --stack STACK`: one real session of a deployed stack, from its start to its end.

It says whether a bot joined, in how many seconds, and what the session cost. The exit status is 0 only if the
bot joined and the session's end was seen. The key is SWITCHBOARD_KEY of the environment, of scope `start`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from stacks import smoke_daily
from stacks.engine.__main__ import CHECKOUT
from stacks.engine.drive import Driver
from stacks.engine.find import find
from stacks.errors import SmokeError, exit_status
from stacks.prices import Price
from stacks.progress import say

KEY_VARIABLE = "SWITCHBOARD_KEY"

START_SECONDS = 120.0
"""For the answer to a start: the dispatcher ends the wait itself, at the agent's start timeout."""

END_SECONDS = 60.0
POLL_SECONDS = 0.25

OVER = ("ended", "failed")


class Unanswered(SmokeError):
    """No answer came: what was asked for may have been done."""


@dataclass(frozen=True)
class Joined:
    """What became of the session."""

    session: str
    agent: str
    transport: str
    seconds: float
    """From the start request until the bot was there, as a caller sees it."""
    machine_seconds: float
    """For which its machine was there, as far as the dispatcher knows."""


def run(
    url: str,
    key: str,
    agent: str | None = None,
    out: Callable[[str], None] = say,
    client: httpx.Client | None = None,
) -> Joined:
    """Start a session, wait for its bot, and end it.

    Raises:
        SmokeError: no bot joined, or the session does not end.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with client or httpx.Client(timeout=START_SECONDS) as http:
        path = f"/v1/public/{agent}/start" if agent else "/start"
        began = time.monotonic()
        answer = _start(http, url, f"{url}{path}", headers)
        took = time.monotonic() - began
        session = answer["sessionId"]
        shown, own = _session(url, answer)
        try:
            record = _ask(http, "GET", shown, own)
        except SmokeError as error:
            raise _after_end(http, url, answer, error) from None
        out(f"  session {session} of {record['agent']}: the bot is there after {took:.1f} s")
        _ask(http, "DELETE", shown, own)
        record = _until_over(http, shown, own)
    machine_seconds = _between(record["admittedAt"] or record["createdAt"], record["endedAt"])
    return Joined(session, record["agent"], record["transport"], took, machine_seconds)


def _start(http: httpx.Client, url: str, start: str, headers: dict[str, str]) -> dict[str, Any]:
    """The answer to a start. A session whose answer got lost is looked up by its key, and ended."""
    headers = {**headers, "Idempotency-Key": f"smoke-{secrets.token_hex(16)}"}
    try:
        return _ask(http, "POST", start, headers, json={})
    except Unanswered as error:
        try:
            answer = _ask(http, "POST", start, headers, json={})
        except SmokeError as again:
            raise SmokeError(f"{error}; asked for it again: {again}") from None
        raise _after_end(http, url, answer, error) from None


def _after_end(http: httpx.Client, url: str, answer: dict[str, Any], error: SmokeError) -> SmokeError:
    """The error, once its session is told to end; with what went wrong with that, if something did."""
    shown, own = _session(url, answer)
    try:
        _ask(http, "DELETE", shown, own)
    except SmokeError as worse:
        return SmokeError(f"{error}; and its session may run on until its deadline: {worse}")
    return error


def _session(url: str, answer: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Where a session is shown, and with what: its own token, since a public key may show no other."""
    return f"{url}/sessions/{answer['sessionId']}", {"Authorization": f"Bearer {answer['sessionToken']}"}


def _until_over(http: httpx.Client, shown: str, headers: dict[str, str]) -> dict[str, Any]:
    deadline = time.monotonic() + END_SECONDS
    while (record := _ask(http, "GET", shown, headers))["state"] not in OVER:
        if time.monotonic() >= deadline:
            raise SmokeError(f"the session did not end within {END_SECONDS:.0f} s of its stop: {shown}")
        time.sleep(POLL_SECONDS)
    return record


def _ask(http: httpx.Client, method: str, url: str, headers: dict[str, str], **more: Any) -> dict[str, Any]:
    try:
        answer = http.request(method, url, headers=headers, **more)
    except httpx.HTTPError as error:
        raise Unanswered(f"{method} {url}: {str(error) or type(error).__name__}") from None
    try:
        content = answer.json()
    except ValueError:
        raise SmokeError(f"{method} {url}: {answer.status_code}, and no JSON: {answer.text[:200]}") from None
    if answer.status_code >= 400:
        advice = f"; {KEY_VARIABLE} is to be a key of scope start" if answer.status_code in (401, 403) else ""
        told = content.get("detail", content)
        raise SmokeError(f"no bot joined: {answer.status_code} {told}{advice} ({method} {url})")
    return content


def _between(begin: str, end: str) -> float:
    first, last = (datetime.datetime.fromisoformat(text) for text in (begin, end))
    return (last - first).total_seconds()


def summary(joined: Joined, price: Price | None) -> str:
    """What a person reads at the end."""
    lines = [f"a bot joined in {joined.seconds:.1f} s over {joined.transport}, and its session has ended"]
    if price is None:
        lines.append(
            f"what its {joined.machine_seconds:.1f} s of a machine cost is not known: the stack has no "
            "output `prices` yet; the next `make up` makes it"
        )
    else:
        cost = joined.machine_seconds * price.per_second
        lines.append(f"it cost ${cost:.6f}: {joined.machine_seconds:.1f} s of {price.of}")
    return "\n".join(lines)


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
    smoke_daily.check_stack(driver, url, say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
