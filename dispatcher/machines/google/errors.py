"""Errors of Google's APIs, in the fleet's taxonomy.

The shape is that of google.rpc.Status (AIP-193), with Compute Engine's older list `errors` beside it. Reasons
come from "Troubleshooting Compute Engine API errors", "Compute Engine rate quotas" and google.rpc.ErrorInfo.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

RETRY_SECONDS = 2.0
"""Pause after a refusal that is over soon and says no time."""

MINUTE = 60.0
"""Rate quotas are refilled at the start of each minute."""

RATES = frozenset({"ratelimitexceeded", "userratelimitexceeded", "rate_limit_exceeded"})
QUOTAS = frozenset({"quotaexceeded", "quota_exceeded", "limitexceeded"})
DISABLED = frozenset({"accessnotconfigured", "service_disabled"})
UNPAID = "billing_disabled"
STOCKOUTS = ("resource_pool_exhausted", "resource_availability", "stockout")
"""`ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS` and others of its kind too."""
NOT_READY = "resourcenotready"


@dataclass(frozen=True)
class Answer:
    """An answer of an API: any status, with JSON or without."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    retry_after: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        said = self.body.get("error")
        return str(said.get("message", ""))[:1000] if isinstance(said, Mapping) else ""

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons that the error gives, in small letters."""
        return frozenset(word.lower() for word in _reasons(self.body.get("error")) if isinstance(word, str))


def _reasons(error: Any) -> Iterator[Any]:
    if isinstance(error, Mapping):
        yield error.get("status")
        for one in (*_objects(error.get("errors")), *_objects(error.get("details"))):
            yield one.get("reason")


def _objects(given: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a list."""
    yield from (one for one in given if isinstance(one, Mapping)) if isinstance(given, list) else ()


def mapped(answer: Answer, api: str, now: float) -> ProviderError:
    """Return the error of a call.

    Args:
        api: The API's name, for the text.
        now: Unix seconds.
    """
    status, reasons = answer.status, answer.reasons
    about = f"{api} answered {status}: {answer.message or 'without a message'}"
    if status == 401:
        return Rejected(
            f"{api} refuses the credentials: they are wrong, or their account is disabled; give the "
            f"dispatcher its service account, or set the provider's credentials anew: {answer.message}"
        )
    if reasons & DISABLED:
        return Rejected(
            f"the API is not enabled in the project; bring the stack up again, or enable it: {about}"
        )
    if UNPAID in reasons or "requires billing" in answer.message:
        return Rejected(f"the project has no billing account that pays; give it one: {about}")
    if status in (403, 429):
        return _limited(answer, about, now)
    if any(sign in answer.message.lower() for sign in STOCKOUTS):
        return NoCapacity(about)
    if NOT_READY in reasons:
        return Throttled(about, RETRY_SECONDS)
    if status in (400, 404, 405, 410, 412, 413, 422):
        # 412: a policy of the organization forbids it. No call of ours has a precondition of its own.
        return Rejected(about)
    # 408 and 5xx: it may have been done. 409: another call is under way.
    return Unreachable(about)


def _limited(answer: Answer, about: str, now: float) -> ProviderError:
    words, reasons = answer.message.lower(), answer.reasons
    if reasons & RATES or "per minute" in words or "rate limit" in words:
        return Throttled(about, _pause(answer, now))
    if reasons & QUOTAS or (answer.status == 429 and "quota" in words):
        return QuotaReached(f"{about} (raise it in the console: IAM & Admin, Quotas)")
    if answer.status == 429:
        return Throttled(about, _pause(answer, now))
    return Rejected(
        "the dispatcher's service account lacks a permission; bring the stack up again, or grant it: " + about
    )


def _pause(answer: Answer, now: float) -> float:
    """Return the seconds until a rate quota lets calls through again."""
    for text in (answer.retry_after, *_retry_delays(answer.body.get("error"))):
        try:
            seconds = float(text.removesuffix("s"))
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return MINUTE - now % MINUTE


def _retry_delays(error: Any) -> Iterator[str]:
    """Yield the texts of google.rpc.RetryInfo, such as `3.5s`."""
    if isinstance(error, Mapping):
        for one in _objects(error.get("details")):
            if isinstance(delay := one.get("retryDelay"), str):
                yield delay


def of_operation(errors: list[Mapping[str, Any]], what: str) -> ProviderError:
    """Return the error of an operation that ended with one: nothing was made.

    Args:
        what: The thing that was to be made.
    """
    code = str(errors[0].get("code", "")) if errors else ""
    words = str(errors[0].get("message", "")) if errors else "it says no reason"
    about, lower = f"Google could not make {what}: {code}: {words}"[:1000], f"{code} {words}".lower()
    if any(sign in lower for sign in STOCKOUTS):
        return NoCapacity(about)
    if "quota_exceeded" in lower or "quotaexceeded" in lower:
        return QuotaReached(f"{about} (raise it in the console: IAM & Admin, Quotas)")
    if "ip_space_exhausted" in lower:
        return QuotaReached(f"{about} (the subnet has no address left: give it a larger range)")
    if "rate_exceeded" in lower or "ratelimitexceeded" in lower:
        return Throttled(about, RETRY_SECONDS)
    if "internal" in code.lower() or not code:
        return Unreachable(about)
    return Rejected(about)
