"""The meaning of Fly's errors for the fleet.

Fly describes two words of an error's `status` and next to none of its status codes. What is here beyond that
is what fly-go, Fly's own client, tells apart (flaps/flaps_error.go), and what users saw.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import httpx

from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

RETRY_SECONDS = 1.0
"""After a 429 that does not say: each action has a call a second."""

NO_CAPACITY_CODES = ("insufficient_capacity", "volume_placement_capacity")

FULL = (
    "insufficient cpus available",
    "insufficient memory available",
    "insufficient ips available",
    "insufficient resources",
    "could not reserve resource for machine",
    "deploys to this host are temporarily disabled",
    "no capacity",
    "not enough capacity",
)

QUOTAS = (
    # 422: the organisation's machines.
    "reached its machine limit",
    # 403: the organisation's memory in one region.
    "over the allowed quota",
    # 422: an account without a credit card.
    "please add a payment method",
)

THROTTLED = ("resource_exhausted: rate limit", "rate limit exceeded")
"""Said with another status than 429 at times."""

_TAKEN = re.compile(r"unique machine name violation, machine ID (\w+)")


def machine_with_name(answer: httpx.Response) -> str | None:
    """The machine that has the name already; empty where Fly does not say which. None: it is another
    error."""
    if answer.status_code not in (409, 422) or "already_exists" not in answer.text:
        return None
    match = _TAKEN.search(answer.text)
    return match[1] if match else ""


def mapped(answer: httpx.Response) -> ProviderError:
    """Fly's error, in the taxonomy."""
    status, said = answer.status_code, _body(answer)
    words = str(said.get("error") or said.get("message") or answer.text[:500]).strip()
    lower, about = words.lower(), f"Fly answered {answer.status_code}: {words}"
    if status == 429 or any(sign in lower for sign in THROTTLED):
        return Throttled(about, _retry_after(answer.headers))
    if any(sign in lower for sign in QUOTAS):
        return QuotaReached(about)
    if said.get("status") in NO_CAPACITY_CODES or any(sign in lower for sign in FULL):
        return NoCapacity(about)
    if status == 401:
        return Rejected(
            "Fly refuses the token (fly_api_token): it is wrong, revoked or expired; set another one: "
            f"{words}"
        )
    if status == 403:
        return Rejected(
            "Fly refuses access to the app: the app belongs to another organization, or the token is not "
            f"good for it (fly_api_token); use a deploy token of this app: {words}"
        )
    if status in (400, 404, 405, 413, 422):
        return Rejected(about)
    # 408 and 5xx: it may have been done. 409 and 412: somebody else is at it.
    return Unreachable(about)


def unanswered(error: httpx.HTTPError) -> Unreachable:
    """A call that got no answer, or none that can be read.

    The error's own words stay out: where a header could not be sent, they have it, with the token.
    """
    return Unreachable(f"Fly did not answer: {type(error).__name__}")


def _body(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        body = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds. Fly documents no header; a date in the place of seconds tells no more than its absence."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return RETRY_SECONDS
    return seconds if math.isfinite(seconds) and seconds >= 0 else RETRY_SECONDS
