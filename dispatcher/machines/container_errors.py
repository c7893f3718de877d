"""What an engine's errors mean for the fleet."""

from __future__ import annotations

import aiodocker

from dispatcher.machines.provider import NoCapacity, ProviderError, Rejected, Throttled, Unreachable

REGISTRY_RETRY_SECONDS = 60.0
"""A registry that counts pulls says not when the next one may come."""

FULL = (
    "no space left on device",
    "cannot allocate memory",
    "not enough memory",
    "resource temporarily unavailable",
    "too many open files",
    "disk quota exceeded",
    # More CPUs than the host has: another one may have them.
    "range of cpus is from",
    # The engine's proxy, of its own limit.
    "too many containers",
)


NOT_TO_BE_HAD = (
    "not found",
    "manifest unknown",
    "name unknown",
    "no matching manifest",
    "denied",
    "unauthorized",
    "forbidden",
)
"""What a pull says in the middle of its progress, without a status, of an image that it will not get later
either. Anything else was the way to the registry, or the registry's own trouble."""


def mapped(error: Exception) -> ProviderError:
    """The engine's error, in the taxonomy."""
    if not isinstance(error, aiodocker.DockerError):
        return Unreachable(f"the engine did not answer: {error or type(error).__name__}")
    words, lower = error.message.strip(), error.message.lower()
    if is_of_another_version(error):
        # Upgraded between two calls, it is asked in its version next time; or it has neither of ours.
        return NoCapacity(f"the engine has another version of its API: {words}")
    if any(sign in lower for sign in FULL):
        return NoCapacity(f"this engine's host is full: {words}")
    if "toomanyrequests" in lower or error.status == 429:
        return Throttled(f"the image's registry takes no more calls: {words}", REGISTRY_RETRY_SECONDS)
    if isinstance(error, aiodocker.exceptions.DockerStreamError):
        if any(sign in lower for sign in NOT_TO_BE_HAD):
            return Rejected(f"the image is not to be had: {words}")
        return NoCapacity(f"the image could not be pulled: {words}")
    if "oci runtime" in lower or error.status in (400, 401, 403, 404, 409, 413):
        return Rejected(f"the engine refuses: {words}")
    return Unreachable(f"the engine failed: {words}")


def is_of_another_version(error: Exception) -> bool:
    """Whether the engine refuses the version of its API that it was asked in: too old, or too new."""
    return (
        isinstance(error, aiodocker.DockerError)
        and error.status == 400
        and "client version" in error.message.lower()
    )


def is_of_the_gone(error: Exception) -> bool:
    """Whether there is no such container; or the engine refuses to remove it because it is doing that."""
    if not isinstance(error, aiodocker.DockerError):
        return False
    being_removed = error.status == 409 and "already in progress" in error.message.lower()
    return error.status == 404 or being_removed


def is_taken_name(error: aiodocker.DockerError) -> bool:
    """Whether a container of that name is there. Podman 4.3 says so with status 500."""
    return error.status == 409 or "already in use" in error.message
