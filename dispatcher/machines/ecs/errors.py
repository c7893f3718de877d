"""Errors of ECS, in the fleet's taxonomy.

The codes are those of the service model; the words are those that ECS shows in `failures` of an answer with
status 200, in errors, and as the reason of a task that was stopped before it ran.
"""

from __future__ import annotations

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
FULL = ("capacity is unavailable", "insufficient capacity", "no capacity", "resource:")
"""`RESOURCE:ENI` and others of its kind too."""
QUOTAS = ("limit on the number of vcpus", "vcpu limit", "you've reached the limit", "task limit")
NO_IMAGE = ("cannotpullcontainererror", "cannotpullimage", "pull image manifest")
NOT_FOUND = ("not found", "does not exist", "manifest unknown", "notfound")
DENIED = ("accessdenied", "not authorized", "access denied", "denied:", "forbidden")
NO_SECRET = (
    "unable to retrieve secret",
    "unable to pull secrets",
    "secretsmanager",
    "parameterstore",
    "ssm:",
)


def mapped(code: str, words: str, status: int = 400) -> ProviderError:
    """Return the error of a call."""
    lower, about = words.lower(), f"ECS answered {code}: {words}"
    if code in THROTTLING_CODES or "rate exceeded" in lower:
        return Throttled(about, RETRY_SECONDS)
    if (found := of_words(words, about)) is not None:
        return found
    if "provisioning" in lower and "limit" in lower:
        return Throttled(about, PROVISIONING_SECONDS)
    if code in CREDENTIAL_CODES:
        return Rejected(
            "ECS refuses the credentials: they are wrong or have expired; give the dispatcher's task its "
            f"role, or set ecs_access_key_id and ecs_secret_access_key anew: {about}"
        )
    if code in ("AccessDeniedException", "AccessDenied"):
        return Rejected(
            f"the dispatcher's role lacks a permission in AWS; bring the stack up again, or grant it: {about}"
        )
    if code == "ServerException" or status >= 500 or status == 408:
        return Unreachable(about)
    return Rejected(about)


def of_failure(reason: str, detail: str) -> ProviderError:
    """Return the error of a RunTask that was answered with a failure in the place of a task."""
    words = f"{reason}: {detail}" if detail else reason
    about = f"ECS gave no task: {words}"
    # There is no task, whatever the words are: another placement may have one.
    return of_words(words, about) or NoCapacity(about)


def of_words(words: str, about: str) -> ProviderError | None:
    """Return the error that words about capacity or quotas mean; None for all others."""
    lower = words.lower()
    if any(sign in lower for sign in QUOTAS):
        return QuotaReached(
            f"{about} (raise the quota `Fargate On-Demand vCPU resource count`, or that of Spot, in Service "
            "Quotas; it is 6 in a new account)"
        )
    return NoCapacity(about) if any(sign in lower for sign in FULL) else None


def not_started(reason: str) -> ProviderError:
    """Return the error of a task that was stopped before it ran, in words that say what to mend."""
    lower = reason.lower()
    denied = any(sign in lower for sign in DENIED)
    if (found := of_words(reason, f"ECS could not start the task: {reason}")) is not None:
        return found
    if any(sign in lower for sign in NO_IMAGE):
        if denied:
            return Rejected(
                "the image cannot be pulled: the execution role may not read it (ecr:BatchGetImage, "
                f"ecr:GetDownloadUrlForLayer, ecr:GetAuthorizationToken): {reason}"
            )
        if any(sign in lower for sign in NOT_FOUND):
            return Rejected(
                "the image cannot be pulled: the registry does not have it; bring the stack up again, which "
                f"pushes it: {reason}"
            )
        return NoCapacity(
            "the image cannot be pulled: the registry does not answer from the task's subnet; give the task "
            f"a public address (assignPublicIp), a NAT gateway or VPC endpoints: {reason}"
        )
    if any(sign in lower for sign in NO_SECRET) or "resourceinitializationerror" in lower:
        if denied:
            return Rejected(
                "a secret cannot be read: the execution role may not (secretsmanager:GetSecretValue or "
                f"ssm:GetParameters): {reason}"
            )
        if any(sign in lower for sign in NOT_FOUND) or "resourcenotfound" in lower.replace(" ", ""):
            return Rejected(
                "a secret that the task definition names does not exist; bring the stack up again, or create "
                f"it: {reason}"
            )
        return NoCapacity(
            "the task could not be set up: secrets or logs do not answer from its subnet; give the task a "
            f"public address (assignPublicIp), a NAT gateway or VPC endpoints: {reason}"
        )
    return NoCapacity(f"ECS could not start the task: {reason}")
