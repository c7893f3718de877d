"""Errors of ECS, in the fleet's taxonomy.

The codes are those of the service model; the words are those of errors, and of `failures` in an answer with
status 200 ("Amazon ECS API failure reasons" of the developer guide).
"""

from __future__ import annotations

from collections.abc import Iterable

from dispatcher.machines.provider import (
    NoCapacity,
    ProviderError,
    QuotaReached,
    Rejected,
    Throttled,
    Unreachable,
)

RETRY_SECONDS = 1.0
"""After a throttled call. ECS says nothing of the time; its buckets get 20 calls and more a second."""

PROVISIONING_SECONDS = 5.0
"""After too many tasks of a cluster in PROVISIONING: each stays in it for some seconds."""

THROTTLING_CODES = frozenset(
    {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"}
)
CREDENTIAL_CODES = frozenset(
    {
        "ExpiredTokenException",
        "ExpiredToken",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "UnrecognizedClientException",
    }
)
DENIAL_CODES = frozenset({"AccessDeniedException", "AccessDenied"})
FULL = ("capacity is unavailable", "insufficient capacity", "no capacity")
QUOTAS = (
    "limit on the number of vcpus",
    "vcpu limit",
    "you've reached the limit",
    "task limit",
    "above your limit",
)
DENIED = ("accessdenied", "not authorized", "access denied", "denied:", "forbidden")


def mapped(code: str, words: str, status: int = 400) -> ProviderError:
    """Return the error of a call."""
    lower, about = words.lower(), f"ECS answered {code}: {words}"
    # A denial names the resource, whose name may have any words in it.
    if code in CREDENTIAL_CODES:
        return Rejected(
            "ECS refuses the credentials: they are wrong or have expired; give the dispatcher's task its "
            f"role, or set ecs_access_key_id and ecs_secret_access_key anew: {about}"
        )
    if code in DENIAL_CODES or has(lower, DENIED):
        return Rejected(
            f"the dispatcher's role lacks a permission in AWS; bring the stack up again, or grant it: {about}"
        )
    if code in THROTTLING_CODES or "rate exceeded" in lower:
        return Throttled(about, RETRY_SECONDS)
    if "provisioning" in lower and "limit" in lower:
        return Throttled(about, PROVISIONING_SECONDS)
    if (found := of_words(lower, about)) is not None:
        return found
    if code == "ServerException" or status >= 500 or status == 408:
        return Unreachable(about)
    return Rejected(about)


def of_failure(reason: str, detail: str) -> ProviderError:
    """Return the error of a RunTask that was answered with a failure in the place of a task."""
    words = f"{reason}: {detail}" if detail else reason
    about = f"ECS gave no task: {words}"
    # There is no task, whatever the words are, `RESOURCE:ENI` among them: another placement may have one.
    return of_words(words.lower(), about) or NoCapacity(about)


def of_words(lower: str, about: str) -> ProviderError | None:
    """Return the error that words (in lower case) about capacity or quotas mean; None for all others."""
    if has(lower, QUOTAS):
        return QuotaReached(
            f"{about} (raise the quota `Fargate On-Demand vCPU resource count`, or that of Spot, in Service "
            "Quotas; it is 6 in a new account)"
        )
    return NoCapacity(about) if has(lower, FULL) else None


def has(lower: str, signs: Iterable[str]) -> bool:
    """Return True if words in lower case have one of the signs."""
    return any(sign in lower for sign in signs)
