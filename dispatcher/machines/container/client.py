"""A client of the engine's API, in the engine's version; its errors are `ProviderError`s."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterator

import aiodocker
import aiohttp

from dispatcher.machines.container.request import ASK_THE_ENGINE, HEADER, OLD, PING, UNFILTERED, chosen
from dispatcher.machines.provider import NoCapacity, ProviderError, Rejected, Throttled, Unreachable

log = logging.getLogger(__name__)

REGISTRY_RETRY_SECONDS = 60.0
"""Pause after a registry's rate limit, as registries do not say when the next pull may come."""

FULL = (
    "no space left on device",
    "cannot allocate memory",
    "not enough memory",
    "resource temporarily unavailable",
    "too many open files",
    "disk quota exceeded",
    # More CPUs than the host has: another one may have them.
    "range of cpus is from",
    # Sent by the engine's proxy, for its own limit.
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
"""Messages of a pull whose image will never be available; they come within its progress, without a status.

Any other message is about the connection to the registry, or the registry's own trouble.
"""


def mapped(error: Exception) -> ProviderError:
    """Return the engine's error as a ProviderError."""
    if not isinstance(error, aiodocker.DockerError):
        return Unreachable(f"the engine did not answer: {error or type(error).__name__}")
    words, lower = error.message.strip(), error.message.lower()
    if is_of_another_version(error):
        # An upgraded engine is asked in its new version next time; or it supports neither version.
        return NoCapacity(f"the engine has another version of its API: {words}")
    if any(sign in lower for sign in FULL):
        return NoCapacity(f"this engine's host is full: {words}")
    if UNFILTERED in words:
        return NoCapacity(words)
    if "toomanyrequests" in lower or error.status == 429:
        return Throttled(f"the image's registry is throttling: {words}", REGISTRY_RETRY_SECONDS)
    if isinstance(error, aiodocker.exceptions.DockerStreamError):
        if any(sign in lower for sign in NOT_TO_BE_HAD):
            return Rejected(f"the image is not available: {words}")
        return NoCapacity(f"the image could not be pulled: {words}")
    if "oci runtime" in lower or error.status in (400, 401, 403, 404, 409, 413):
        return Rejected(f"the engine refuses: {words}")
    return Unreachable(f"the engine failed: {words}")


def is_of_another_version(error: Exception) -> bool:
    """Return True if the engine refuses the API version of the request, as too old or too new."""
    return (
        isinstance(error, aiodocker.DockerError)
        and error.status == 400
        and "client version" in error.message.lower()
    )


def is_of_the_gone(error: Exception) -> bool:
    """Return True if the container does not exist, or the engine is removing it."""
    if not isinstance(error, aiodocker.DockerError):
        return False
    being_removed = error.status == 409 and "already in progress" in error.message.lower()
    return error.status == 404 or being_removed


def is_taken_name(error: aiodocker.DockerError) -> bool:
    """Return True if a container of that name exists. Podman 4.3 answers so with status 500."""
    return error.status == 409 or "already in use" in error.message


CALL_SECONDS = 10.0
"""Limit on one call, pulls and stops not counted. An engine on a slow disk creates a container in one to two
seconds."""


class EngineClient:
    """Client of a container engine's API.

    Args:
        url: The engine's API: `unix:///…`, `tcp://host:port` or `http://host:port`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._docker: aiodocker.Docker | None = None
        self._version_known = False

    async def docker(self) -> aiodocker.Docker:
        """Return the client, in the engine's version.

        The engine is asked for its version at first, and again after it has not answered: it may be newer
        then.

        Raises:
            ProviderError: it does not answer.
        """
        if self._docker is None:
            self._docker = self._new()
        docker = self._docker
        if not self._version_known:
            docker.api_version = chosen(await self._ping(docker))
            self._version_known = True
        return docker

    async def ping(self) -> None:
        """Return if the engine answers; raise a ProviderError if not."""
        await self._ping(await self.docker())

    async def _ping(self, docker: aiodocker.Docker) -> str | None:
        """Return the newest API version that the engine supports."""
        with self.translated():
            async with docker._query(PING, versioned_api=False) as answer:
                return answer.headers.get(HEADER)

    def _new(self) -> aiodocker.Docker:
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        docker = aiodocker.Docker(self._url, api_version=OLD, timeout=timeout)
        # Stops and pulls are slow. With aiohttp's limit of 100 connections, many would block all other
        # calls, and the engine would seem not to answer.
        docker.connector._limit = 0
        return docker

    @contextlib.contextmanager
    def translated(self, *, gone_is_fine: bool = False) -> Iterator[None]:
        """Raise the engine's errors as ProviderErrors.

        Args:
            gone_is_fine: Ignore the error that a container does not exist, or is being removed.
        """
        try:
            yield
        except (aiodocker.DockerError, TimeoutError, aiohttp.ClientError, OSError) as error:
            if gone_is_fine and is_of_the_gone(error):
                return
            failure = mapped(error)
            if isinstance(failure, Unreachable) or is_of_another_version(error):
                self._version_known = False
            raise failure from error

    async def close(self) -> None:
        if self._docker is not None:
            await self._docker.close()
            self._docker = None
            self._version_known = False


class HostAddress:
    """The gateway of the machines' network, if it is an address of this computer.

    Otherwise, as with an engine in a virtual machine, only the engine knows the address.
    """

    def __init__(self, engine: EngineClient, network: str) -> None:
        self._engine = engine
        self._network = network
        self._known = ""
        self._is_refused = False

    async def find(self) -> str:
        """Return an address, or the engine's own name for it."""
        if not (self._is_refused or _is_of_this_computer(self._known)):
            self._known = await self._gateway()
        return self._known if _is_of_this_computer(self._known) else ASK_THE_ENGINE

    async def _gateway(self) -> str:
        try:
            with self._engine.translated():
                docker = await self._engine.docker()
                found = await docker._query_json(f"networks/{self._network}")
        except Unreachable:  # the next machine's create asks again
            return ""
        except ProviderError as error:  # the engine's proxy refuses it, and machines there do not need it
            log.debug("network %s cannot be examined: %s", self._network, error)
            self._is_refused = True
            return ""
        # The engine's proxy, an old engine or another program may omit any of these members.
        pools = (found.get("IPAM") or {}).get("Config") or ()
        return next((one["Gateway"] for one in pools if one.get("Gateway")), "")


def _is_of_this_computer(address: str) -> bool:
    """Return True if a process of this computer can listen on the address."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True
