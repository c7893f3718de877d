"""What an engine's errors mean for the fleet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiodocker
import aiohttp

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


def mapped(error: Exception) -> ProviderError:
    """The engine's error, in the taxonomy."""
    if not isinstance(error, aiodocker.DockerError):
        return Unreachable(f"the engine did not answer: {error or type(error).__name__}")
    words, lower = error.message.strip(), error.message.lower()
    if any(sign in lower for sign in FULL):
        return NoCapacity(f"this engine's host is full: {words}")
    if "toomanyrequests" in lower or error.status == 429:
        return Throttled(f"the image's registry takes no more calls: {words}", REGISTRY_RETRY_SECONDS)
    if (
        "oci runtime" in lower
        or error.status in (400, 401, 403, 404, 409)
        or isinstance(error, aiodocker.exceptions.DockerStreamError)
    ):
        return Rejected(f"the engine refuses: {words}")
    return Unreachable(f"the engine failed: {words}")


@contextlib.contextmanager
def translated(*, gone_is_fine: bool = False) -> Iterator[None]:
    """Raise the engine's errors as those of the taxonomy.

    Args:
        gone_is_fine: Whether a container that does not exist is no error.
    """
    try:
        yield
    except (aiodocker.DockerError, TimeoutError, aiohttp.ClientError, OSError) as error:
        if gone_is_fine and isinstance(error, aiodocker.DockerError) and error.status == 404:
            return
        raise mapped(error) from error
