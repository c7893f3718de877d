"""A client of an engine's API, in the version that the engine has, whose errors are those of the taxonomy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import aiodocker
import aiohttp

from dispatcher.machines import container_version
from dispatcher.machines.container_errors import is_of_another_version, is_of_the_gone, mapped
from dispatcher.machines.provider import Unreachable

CALL_SECONDS = 10.0
"""How long one call may take, pulls and stops not counted. An engine on a slow disk creates a container in
one to two seconds."""


class EngineClient:
    """What a provider asks its engine with.

    Args:
        url: The engine's API: `unix:///…`, `tcp://host:port` or `http://host:port`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._docker: aiodocker.Docker | None = None
        self._version_known = False

    async def docker(self) -> aiodocker.Docker:
        """The client, in the right version.

        The engine is asked for it at first, and again when it has not answered: it may be a newer one then.

        Raises:
            ProviderError: it does not answer.
        """
        if self._docker is None:
            self._docker = self._new()
        docker = self._docker
        if not self._version_known:
            docker.api_version = container_version.chosen(await self._ping(docker))
            self._version_known = True
        return docker

    async def ping(self) -> None:
        """Return if the engine answers; raise a ProviderError if not."""
        await self._ping(await self.docker())

    async def _ping(self, docker: aiodocker.Docker) -> str | None:
        """Return the newest version that the engine has."""
        with self.translated():
            async with docker._query(container_version.PING, versioned_api=False) as answer:
                return answer.headers.get(container_version.HEADER)

    def _new(self) -> aiodocker.Docker:
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        docker = aiodocker.Docker(self._url, api_version=container_version.OLD, timeout=timeout)
        # Stops and pulls take their time. With aiohttp's 100 connections, so many of them would keep all else
        # waiting, and an engine that answers would be taken for one that does not.
        docker.connector._limit = 0
        return docker

    @contextlib.contextmanager
    def translated(self, *, gone_is_fine: bool = False) -> Iterator[None]:
        """Raise the engine's errors as those of the taxonomy.

        Args:
            gone_is_fine: Whether a container that does not exist, or is being removed, is no error.
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
