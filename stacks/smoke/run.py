"""One session from its start to its end, and what it cost."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx

from stacks.errors import SmokeError
from stacks.prices import Price
from stacks.progress import say
from stacks.smoke import daily, webrtc
from stacks.smoke.http import START_SECONDS, Session, start

Call = Callable[[Session, Callable[[str], None]], str]

CALLS: Mapping[str, Call] = {"daily": daily.call, "webrtc": webrtc.call}
"""By transport: joins a session as a client, tells the steps, and returns what is checked then."""


@dataclass(frozen=True)
class Joined:
    """The outcome of the session."""

    session: str
    agent: str
    transport: str
    checked: str
    seconds: float
    """From the start request until that was checked, as a caller sees it."""
    machine_seconds: float
    """For which its machine was there, as far as the dispatcher knows."""


def run(
    url: str,
    key: str,
    agent: str | None = None,
    out: Callable[[str], None] = say,
    client: httpx.Client | None = None,
    calls: Mapping[str, Call] = CALLS,
) -> Joined:
    """Start a session, talk with its bot, and end it.

    Raises:
        SmokeError: no bot joined or was heard, or the session does not end.
    """

    def tell(text: str) -> None:
        out(f"  {text}")

    with client or httpx.Client(timeout=START_SECONDS) as http:
        began = time.monotonic()
        session = start(http, url, key, agent)
        took = time.monotonic() - began
        try:
            record = session.record()
            tell(f"session {session.id} of {record['agent']}: the start was answered after {took:.1f} s")
            checked = _call_of(record["transport"], calls)(session, tell)
            took = time.monotonic() - began
            session.end()
        except SmokeError as error:
            raise session.after_end(error) from None
        except BaseException as error:
            # An interruption and a fault of ours too: the session must not run on, and cost, for it.
            if left := session.try_end():
                error.add_note(left)
            raise
        record = session.until_over()
    machine_seconds = _between(record["admittedAt"] or record["createdAt"], record["endedAt"])
    return Joined(session.id, record["agent"], record["transport"], checked, took, machine_seconds)


def _call_of(transport: str, calls: Mapping[str, Call]) -> Call:
    if transport not in calls:
        raise SmokeError(f"the session's transport is '{transport}'; known here: {', '.join(calls)}")
    return calls[transport]


def _between(begin: str, end: str) -> float:
    first, last = (datetime.datetime.fromisoformat(text) for text in (begin, end))
    return (last - first).total_seconds()


def summary(joined: Joined, price: Price | None) -> str:
    """Return what a person reads at the end."""
    lines = [f"{joined.checked} in {joined.seconds:.1f} s over {joined.transport}, and its session has ended"]
    if price is None:
        lines.append(
            f"what its {joined.machine_seconds:.1f} s of a machine cost is not known: the stack has no "
            "output `prices` yet; the next `make up` makes it"
        )
    else:
        cost = joined.machine_seconds * price.per_second
        lines.append(f"it cost ${cost:.6f}: {joined.machine_seconds:.1f} s of {price.of}")
    return "\n".join(lines)
