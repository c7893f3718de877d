"""The images of an engine's machines: each is pulled once, for all who wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiodocker

from dispatcher.machines.container.client import EngineClient
from dispatcher.machines.container.request import IMAGE_LABEL
from dispatcher.machines.provider import NoCapacity, Unreachable

log = logging.getLogger(__name__)


SILENCE_SECONDS = 300.0
"""Limit on a pull without progress; the next start pulls again. An engine reports each layer several times a
second."""


class Images:
    """Pulls images that the engine lacks. A pull goes on when nobody waits for it any more."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._pulling: dict[str, asyncio.Task[None]] = {}

    def prepare(self, image: str) -> None:
        """Pull an image that will be needed. Returns at once."""
        self._pull(image).add_done_callback(_log_failed_pull)

    async def close(self) -> None:
        pulls = list(self._pulling.values())
        for task in pulls:
            task.cancel()
        await asyncio.gather(*pulls, return_exceptions=True)

    async def have(self, image: str) -> None:
        """Pull the image of a machine that is about to be created, if it is missing.

        Raises:
            ProviderError: it could not be pulled; never `Unreachable`.
        """
        try:
            await asyncio.shield(self._pull(image))
        except Unreachable as error:
            # There certainly is no machine; another placement may have the image.
            raise NoCapacity(f"image {image} could not be pulled: {error}") from error

    async def reads_file(self, image: str) -> bool:
        """Return True if the image's bot reads variables from a file; False if the engine lacks the image.

        Raises:
            aiodocker.DockerError: the engine did not answer.
        """
        found = await _found(await self._engine.docker(), image)
        labels = (found or {}).get("Config", {}).get("Labels") or {}
        return labels.get(IMAGE_LABEL) == "true"

    def _pull(self, image: str) -> asyncio.Task[None]:
        """Pull an image that the engine lacks, once for all who wait for it."""
        if (task := self._pulling.get(image)) is None:
            task = asyncio.create_task(self._pull_now(image))
            self._pulling[image] = task
            task.add_done_callback(lambda _: self._pulling.pop(image))
        return task

    async def _pull_now(self, image: str) -> None:
        with self._engine.translated():
            docker = await self._engine.docker()
            if await _found(docker, image) is not None:
                return
            log.info("image %s: pulling", image)
            layers: dict[str, str] = {}
            async for step in _without_silence(docker.images.pull(image, stream=True)):
                layer, status = step.get("id", ""), step.get("status", "")
                if layer and layers.get(layer) != status:
                    layers[layer] = status
                    log.debug("image %s: %s: %s", image, layer, status)
            if await _found(docker, image) is None:
                # The client mistakes some lost connections for the end of the pull.
                raise Unreachable("its pull ended too early")
            log.info("image %s: pulled, %d layers", image, len(layers))


async def _found(docker: aiodocker.Docker, image: str) -> dict[str, Any] | None:
    try:
        return await docker.images.inspect(image)
    except aiodocker.DockerError as error:
        if error.status != 404:
            raise
        return None


async def _without_silence(steps: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Yield the steps of a pull; raise TimeoutError after `SILENCE_SECONDS` without one.

    The client's own limit would not do: it takes an expired limit for the end of the pull.
    """
    while True:
        async with asyncio.timeout(SILENCE_SECONDS):
            step = await anext(steps, None)
        if step is None:
            return
        yield step


def _log_failed_pull(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("an image could not be pulled: %s", error)
