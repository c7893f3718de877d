"""The `container` provider: a machine is a container of Docker's engine, or of Podman's service.

A machine's container is named `<deployment>-<machine id>`, and the engine gives a name only once: by that a
second create finds the first one's machine. What a container is, and whose, is on its labels.

The engine keeps nothing like a deadline, so the container's first process does: `timeout`, which ends the bot
when the machine's time is up, whether or not there still is a dispatcher.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer

from bot.protocol import BOT_FILE_VARIABLE
from dispatcher.machines.container_body import (
    DEPLOYMENT_LABEL,
    MACHINE_LABEL,
    Facts,
    Place,
    body,
)
from dispatcher.machines.container_errors import mapped, translated
from dispatcher.machines.container_room import Room, state_of
from dispatcher.machines.process_groups import MACHINE_VARIABLE
from dispatcher.machines.provider import (
    MachineSpec,
    MachineState,
    MachineStatus,
    NoCapacity,
    Preparation,
    ProviderError,
    Unreachable,
    thread_variables,
)

log = logging.getLogger(__name__)

API_VERSION = "v1.41"
"""Docker 20.10 and later, and Podman 4 and later, speak it. No call is spent on asking."""

CALL_SECONDS = 10.0
"""How long one call may take, pulls and stops not counted. An engine on a slow disk creates a container in
one to two seconds."""

VISIBLE_SECONDS, LOOK_SECONDS = 5.0, 0.1
"""How long a container may be invisible whose name is taken, and how often it is looked for: as long as an
engine on a busy host takes to create one."""

LATE = timedelta(seconds=30)
"""A bot keeps its own deadline: the container's is so much later, for one that does not."""

TAIL_LINES = 20

UNASKED_LISTINGS = 20
"""In so many listings a container that has ended is seen before it is removed with nobody having asked how it
ended. At two listings a minute these are ten minutes; the reaper asks for a session's machine within one."""


class ContainerProvider:
    """Machines as containers of one engine.

    Args:
        url: The engine's API: `unix:///…`, `tcp://host:port` or `http://host:port`.
        deployment: Tells this deployment's machines from others of the same engine; part of their names.
        network: The engine's network that machines are in: the dispatcher and the internet are to be reached.
        models: A volume's name or a directory of the host, which machines see read-only at `/mnt/models`.
        late: How much later than its session's deadline a container is ended.
    """

    name = "container"

    settling = timedelta(seconds=2 * CALL_SECONDS + VISIBLE_SECONDS + 1)
    """A create that was given up goes on behind the scenes, for as long as its calls may take."""

    def __init__(
        self,
        *,
        url: str,
        deployment: str,
        network: str = "bridge",
        models: str = "",
        late: timedelta = LATE,
    ) -> None:
        self._url = url
        self._place = Place(deployment, network, models)
        self._late = late
        self._engine: aiodocker.Docker | None = None
        self._creating: dict[str, asyncio.Task[MachineStatus]] = {}
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._room = Room(self._info, self._containers)
        self._told: set[str] = set()
        self._listings: dict[str, int] = {}
        """Machine that is gone → how many listings had it."""

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Pull the images that the engine does not have."""
        for image in {preparation.image for preparation in preparations if preparation.image}:
            task = self._pull(image)
            task.add_done_callback(_log_failed_pull)

    async def close(self) -> None:
        """End what goes on behind the scenes. Machines are not touched."""
        for task in [*self._pulling.values(), *self._creating.values()]:
            task.cancel()
        await asyncio.gather(*self._pulling.values(), *self._creating.values(), return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    async def create(self, spec: MachineSpec) -> MachineStatus:
        task = self._creating.get(spec.id)
        if task is None:
            task = asyncio.create_task(self._create(spec))
            self._creating[spec.id] = task
            task.add_done_callback(lambda done: self._created(spec.id, done))
        # Cut between its two calls, it would leave a container that never runs.
        return await asyncio.shield(task)

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = await self._inspect(machine_id)
        if found is None:
            return None
        if found["State"]["Status"] == "created" and machine_id not in self._creating:
            # Whoever created it died before it could start it.
            await self._start(machine_id)
            found = await self._inspect(machine_id)
        return None if found is None else await self._status(machine_id, found)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Every machine that is not gone.

        Removes containers that are, once somebody knows how they ended, or nobody has asked for so long that
        nobody will: those without an owner, and those whose end an earlier dispatcher was told.
        """
        found = {one["Labels"][MACHINE_LABEL]: state_of(one["State"]) for one in await self._containers()}
        gone = [machine_id for machine_id, state in found.items() if state is MachineState.gone]
        self._listings = {machine_id: self._listings.get(machine_id, 0) + 1 for machine_id in gone}
        for machine_id, state in found.items():
            if state is not MachineState.gone:
                yield MachineStatus(machine_id, state)
            elif machine_id in self._told or self._listings[machine_id] >= UNASKED_LISTINGS:
                await self._remove(machine_id)
                self._told.discard(machine_id)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        seconds = math.ceil(grace.total_seconds())
        if (found := await self._inspect(machine_id)) is None:
            return
        if found["State"]["Status"] == "created":
            await self._remove(machine_id)
            return
        timeout = aiohttp.ClientTimeout(total=seconds + CALL_SECONDS)
        with translated(gone_is_fine=True):
            await self._container(machine_id).stop(t=seconds, timeout=timeout)

    async def _create(self, spec: MachineSpec) -> MachineStatus:
        await self._room.take(spec.id, spec.memory_mb)
        try:
            for attempt in (1, 2):
                try:
                    await self._docker.containers.create(self._config(spec), name=self._name(spec.id))
                    break
                except aiodocker.DockerError as error:
                    if error.status == 409:
                        return await self._again(spec.id)
                    if attempt == 2 or error.status != 404:
                        raise
                    await self._have(spec.image)
        except (aiodocker.DockerError, TimeoutError, aiohttp.ClientError) as error:
            raise mapped(error) from error
        try:
            await self._start(spec.id)
        except Unreachable:
            raise
        except ProviderError:
            # It exists and will never run.
            await self._remove(spec.id)
            raise
        return MachineStatus(spec.id, MachineState.started)

    def _created(self, machine_id: str, done: asyncio.Task[MachineStatus]) -> None:
        del self._creating[machine_id]
        self._room.give_back(machine_id)
        if not done.cancelled():
            done.exception()  # whoever waited for it has it; who went away looks the machine up

    async def _again(self, machine_id: str) -> MachineStatus:
        """The machine of an earlier create, started if that one did not get so far."""
        found = await self._inspect(machine_id)
        for _ in range(round(VISIBLE_SECONDS / LOOK_SECONDS)):
            if found is not None:
                break
            # Another create of it goes on: the engine takes a name before its container can be seen.
            await asyncio.sleep(LOOK_SECONDS)
            found = await self._inspect(machine_id)
        if found is None:
            name = self._name(machine_id)
            raise Unreachable(
                f"the name {name} is taken by a container that is not this deployment's, or is being removed"
            )
        if found["State"]["Status"] == "created":
            await self._start(machine_id)
            return MachineStatus(machine_id, MachineState.started)
        return await self._status(machine_id, found)

    async def _start(self, machine_id: str) -> None:
        with translated():
            await self._container(machine_id).start()

    async def _remove(self, machine_id: str) -> None:
        with translated(gone_is_fine=True):
            await self._container(machine_id).delete(force=True, v=True)

    async def _inspect(self, machine_id: str) -> Mapping[str, Any] | None:
        """What the engine knows of the machine's container; None if there is none of this deployment."""
        found: Mapping[str, Any] | None = None
        with translated(gone_is_fine=True):
            found = await self._container(machine_id).show()
        if found is None or found["Config"]["Labels"].get(DEPLOYMENT_LABEL) != self._place.deployment:
            return None
        return found

    async def _status(self, machine_id: str, found: Mapping[str, Any]) -> MachineStatus:
        state = found["State"]
        if state_of(state["Status"]) is not MachineState.gone:
            return MachineStatus(machine_id, state_of(state["Status"]))
        lines: list[str] = []
        with translated(gone_is_fine=True):
            lines = await self._container(machine_id).log(stdout=True, stderr=True, tail=TAIL_LINES)
        if state.get("OOMKilled"):
            limit = found["HostConfig"]["Memory"] // 2**20
            lines.append(f"The machine was ended because it used all of its memory, {limit} MiB.\n")
        self._told.add(machine_id)
        return MachineStatus(machine_id, MachineState.gone, state["ExitCode"], "".join(lines))

    async def _containers(self) -> list[Mapping[str, Any]]:
        with translated():
            found = await self._docker.containers.list(
                all="true", filters=f'{{"label": ["{DEPLOYMENT_LABEL}={self._place.deployment}"]}}'
            )
        return [container._container for container in found]

    async def _info(self) -> Mapping[str, Any]:
        with translated():
            return await self._docker.system.info()

    async def _have(self, image: str) -> None:
        """Get the image of a machine that is to be created."""
        try:
            await asyncio.shield(self._pull(image))
        except Unreachable as error:
            # It is certain that there is no machine; another placement may have the image.
            raise NoCapacity(f"image {image} could not be pulled: {error}") from error

    def _pull(self, image: str) -> asyncio.Task[None]:
        """Get an image that the engine does not have, once however many wait for it."""
        if (task := self._pulling.get(image)) is None:
            task = asyncio.create_task(self._pull_now(image))
            self._pulling[image] = task
            task.add_done_callback(lambda _: self._pulling.pop(image))
        return task

    async def _pull_now(self, image: str) -> None:
        with translated():
            try:
                await self._docker.images.inspect(image)
                return
            except aiodocker.DockerError as error:
                if error.status != 404:
                    raise
            log.info("image %s: is being pulled", image)
            layers: dict[str, str] = {}
            async for step in self._docker.images.pull(image, stream=True):
                layer, status = step.get("id", ""), step.get("status", "")
                if layer and layers.get(layer) != status:
                    layers[layer] = status
                    log.debug("image %s: %s: %s", image, layer, status)
            log.info("image %s: is here, %d layers", image, len(layers))

    def _config(self, spec: MachineSpec) -> dict[str, Any]:
        seconds = math.ceil((spec.max_duration + self._late).total_seconds())
        environment = {
            "HOME": "/tmp",  # noqa: S108 - its own, not the host's
            **thread_variables(spec.cpu),
            BOT_FILE_VARIABLE: spec.bot_file,
            MACHINE_VARIABLE: spec.id,
            **spec.whole_environment,
        }
        facts = Facts(
            machine_id=spec.id,
            image=spec.image,
            nano_cpus=round(spec.cpu * 1e9),
            memory_mb=spec.memory_mb,
            seconds=seconds,
            arguments=tuple(spec.arguments),
            environment=tuple(f"{name}={value}" for name, value in environment.items()),
        )
        return body(self._place, facts)

    def _name(self, machine_id: str) -> str:
        return self._place.name(machine_id)

    def _container(self, machine_id: str) -> DockerContainer:
        return self._docker.containers.container(self._name(machine_id))

    @property
    def _docker(self) -> aiodocker.Docker:
        if self._engine is None:
            self._engine = aiodocker.Docker(
                self._url, api_version=API_VERSION, timeout=aiohttp.ClientTimeout(total=CALL_SECONDS)
            )
        return self._engine


def _log_failed_pull(done: asyncio.Task[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("an image could not be pulled: %s", error)
