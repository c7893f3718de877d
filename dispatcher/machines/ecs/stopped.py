"""The reason of a task that was stopped before it ran, as an error in words that say what to mend.

The reasons are those of the developer guide, "Resolve Amazon ECS stopped task errors" and its pages
"ResourceInitializationError", "CannotPullContainer" and "CannotStartContainerError".
"""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.machines.ecs.errors import DENIED, has, of_words
from dispatcher.machines.provider import NoCapacity, ProviderError, Rejected

NOT_FOUND = (
    "not found",
    "does not exist",
    "manifest unknown",
    "notfound",
    "can't find",
    "invalid ssm parameters",
    "did not contain json key",
)
NO_ROUTE = (
    # Beside "cannot find the log group": the agent got no answer about it.
    "connection issue",
    "deadline exceeded",
    "timeout",
    "dial tcp",
    "signal: killed",
    "request canceled",
    "connection refused",
)
ROUTE = "give the task a public address (assignPublicIp), a NAT gateway or VPC endpoints"
AGAIN = "bring the stack up again"


@dataclass(frozen=True, slots=True)
class _Needed:
    """Something that a task needs before it runs."""

    signs: tuple[str, ...]
    problem: str
    denied: str
    absent: str
    silent: str
    """The text if there is no answer."""


PERMANENT = {
    ("descriptor matching platform", "no matching manifest for", "exec format error"): (
        "the image is for another CPU: build it for the placement's `architecture`"
    ),
    ("no space left on device",): "the image does not fit in the task's storage: make it smaller",
    ("unable to assume the role", "unable to assume role"): (
        f"ECS may not assume the task definition's roles; {AGAIN}, which makes them"
    ),
}
"""Signs → what is wrong, where a repetition cannot help."""

# Fargate words it "CannotStartContainerError: … failed to create new container runtime task: …".
NOT_CREATED = ("cannotstartcontainererror", "container runtime task")
NO_PROGRAM = ("no such file or directory", "executable file not found", "permission denied")

NEEDED = (
    _Needed(
        ("logger args", "logging driver", "cloudwatch log"),
        "the log group cannot be used",
        "the execution role may not write to it (logs:CreateLogStream, logs:PutLogEvents)",
        f"it does not exist; {AGAIN}, or create it",
        f"CloudWatch Logs does not answer from the task's subnet; {ROUTE}",
    ),
    _Needed(
        # Not "unable to pull secrets or registry auth", with which other reasons begin too.
        (
            "cannotpullcontainererror",
            "cannotpullimage",
            "pull image manifest",
            "pull registry auth from",
            "ecr registry auth",
            "ecr:",
        ),
        "the image cannot be pulled",
        "the execution role may not read it (ecr:BatchGetImage, ecr:GetDownloadUrlForLayer, "
        "ecr:GetAuthorizationToken)",
        f"the registry does not have it; {AGAIN}, which pushes it",
        f"the registry does not answer from the task's subnet; {ROUTE}",
    ),
    _Needed(
        ("secret", "parameterstore", "from ssm", "ssm:", "from asm"),
        "a secret cannot be read",
        "the execution role may not (secretsmanager:GetSecretValue or ssm:GetParameters)",
        f"a secret that the task definition names does not exist; {AGAIN}, or create it",
        f"the secret store does not answer from the task's subnet; {ROUTE}",
    ),
)
"""In the order in which they are looked for: a reason may name several."""


def not_started(reason: str) -> ProviderError:
    """Return the error of a task that was stopped before it ran."""
    lower, about = reason.lower(), f"ECS could not start the task: {reason}"
    denied = has(lower, DENIED)
    if not denied and (found := of_words(lower, about)) is not None:
        return found
    for signs, words in PERMANENT.items():
        if has(lower, signs):
            return Rejected(f"{words}: {reason}")
    if (needed := next((one for one in NEEDED if has(lower, one.signs)), None)) is not None:
        if denied:
            return Rejected(f"{needed.problem}: {needed.denied}: {reason}")
        if has(lower, NO_ROUTE):
            return NoCapacity(f"{needed.problem}: {needed.silent}: {reason}")
        if has(lower, NOT_FOUND):
            return Rejected(f"{needed.problem}: {needed.absent}: {reason}")
        return NoCapacity(f"{needed.problem}: {reason}")
    if has(lower, NOT_CREATED) and has(lower, NO_PROGRAM):
        return Rejected(
            f"the container cannot start: its image lacks a program that is run first, such as /usr/bin/env, "
            f"or may not run it: {reason}"
        )
    if denied:
        return Rejected(f"the execution role lacks a permission; {AGAIN}, or grant it: {reason}")
    return NoCapacity(about)
