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
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiodocker
import aiohttp
from aiodocker.containers import DockerContainer

from bot.protocol import BOT_FILE_VARIABLE, without_secrets
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.container.capacity import Capacity, state_of
from dispatcher.machines.container.client import CALL_SECONDS, EngineClient, HostAddress, is_taken_name
from dispatcher.machines.container.images import Images
from dispatcher.machines.container.logs import UNREAD, Printed, part_of, read_pieces, since
from dispatcher.machines.container.request import (
    DEPLOYMENT_LABEL,
    DIRECTORY,
    LABEL,
    MACHINE_LABEL,
    Facts,
    Place,
    archive,
    body,
    machine_id_of,
    split,
)
from dispatcher.machines.provider import (
    LOG_BYTES,
    MACHINE_VARIABLE,
    LogPart,
    MachineSpec,
    Preparation,
    ProviderError,
    Rejected,
    Unreachable,
    thread_variables,
)
from dispatcher.machines.removal import Removal

log = logging.getLogger(__name__)

VISIBLE_SECONDS, LOOK_SECONDS = 5.0, 0.1
"""Time that a container may be invisible although its name is taken, and the pause between look-ups: as long
as an engine on a busy host takes to create one."""

LATE = timedelta(seconds=30)
"""Time from a session's deadline, which the bot enforces, to the container's, for a bot that does not."""

TAIL_LINES, TAIL_BYTES = 20, 16 * 1024
"""Limits on the log of an ended container in its status; Docker's longest line has as many bytes."""

HAS_RUN = 409

LOG_SECONDS = 3.0
"""Limit on reading a log, as the client has none.

Together with the look-up of the container it must stay below the 10 s that the fleet gives a `get`, or the
exit code would be lost too.
"""


class ContainerProvider:
    """Machines as containers of one engine.

    Args:
        url: The engine's API: `unix:///…`, `tcp://host:port` or `http://host:port`.
        deployment: Distinguishes this deployment's machines from others on the same engine; part of their
            names.
        network: The engine's network for machines; it must reach the dispatcher and the internet.
        models: A volume's name or a directory of the host, which machines see read-only at `/mnt/models`.
        late: Time from a session's deadline to its container's.
    """

    name = "container"

    settling = timedelta(seconds=3 * CALL_SECONDS + VISIBLE_SECONDS + 1)
    """Longest time that an abandoned create goes on: its calls create the container, look up its name, hand
    over variables and start it. A create that is still waiting for its image stops."""

    def __init__(
        self,
        *,
        url: str,
        deployment: str,
        network: str = "bridge",
        models: str = "",
        late: timedelta = LATE,
    ) -> None:
        self._engine = EngineClient(url)
        self._place = Place(deployment, network, models)
        self._late = late
        self._creating: dict[str, asyncio.Task[MachineStatus]] = {}
        self._waiting: Counter[str] = Counter()
        """Machine that is being created → number of callers that wait for it."""
        self._host = HostAddress(self._engine, network)
        self._images = Images(self._engine)
        self._capacity = Capacity(self._info, self._containers)
        self._removal = Removal(self._remove)

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Pull the images that the engine lacks."""
        for image in {preparation.image for preparation in preparations if preparation.image}:
            self._images.prepare(image)

    async def fetch(self, image: str) -> None:
        await self._images.have(image)

    async def check(self) -> None:
        await self._engine.ping()

    async def close(self) -> None:
        """Cancel the background work. Machines are not touched."""
        for task in self._creating.values():
            task.cancel()
        await asyncio.gather(*self._creating.values(), return_exceptions=True)
        await self._images.close()
        await self._removal.close()
        await self._engine.close()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        task = self._creating.get(spec.id)
        if task is None:
            task = asyncio.create_task(self._create(spec))
            self._creating[spec.id] = task
            task.add_done_callback(lambda done: self._created(spec.id, done))
        self._waiting[spec.id] += 1
        try:
            # Not cancelled: between its two calls it would leave a container that never runs.
            return await asyncio.shield(task)
        finally:
            self._waiting[spec.id] -= 1
            if not self._waiting[spec.id]:
                del self._waiting[spec.id]

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = await self._inspect(machine_id)
        return None if found is None else await self._status(machine_id, found)

    async def start(self, spec: MachineSpec) -> MachineStatus:
        """Start a container whose creator was interrupted before it could."""
        if (creating := self._creating.get(spec.id)) is not None:
            return await asyncio.shield(creating)
        if (found := await self._look(spec.id)) is None:
            raise Rejected(f"container {self._name(spec.id)} no longer exists")
        return await self._going(spec, found)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine that is not gone; removes containers that are, see `Removal`."""
        found = {one["Labels"][MACHINE_LABEL]: state_of(one["State"]) for one in await self._containers()}
        self._removal.listed(machine_id for machine_id, state in found.items() if state is MachineState.gone)
        for machine_id, state in found.items():
            if state is not MachineState.gone:
                yield MachineStatus(machine_id, state)

    @property
    def ended(self) -> Collection[str]:
        return self._removal.ended

    def recorded(self, machine_ids: Iterable[str]) -> None:
        self._removal.told(machine_ids)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        seconds = math.ceil(grace.total_seconds())
        if (found := await self._inspect(machine_id)) is None:
            return
        if found["State"]["Status"] == "created":
            await self._remove(machine_id)
            return
        timeout = aiohttp.ClientTimeout(total=seconds + CALL_SECONDS)
        with self._engine.translated(gone_is_fine=True):
            await (await self._container(machine_id)).stop(t=seconds, timeout=timeout)

    async def _create(self, spec: MachineSpec) -> MachineStatus:
        name = self._name(spec.id)
        host = await self._host.find()
        with self._engine.translated():
            for attempt in (1, 2):
                has_file = await self._images.reads_file(spec.image)
                await self._capacity.take(spec.id, spec.memory_mb)
                # Ask for the version here and not later: `settling` does not include it.
                docker = await self._engine.docker()
                if not self._waiting[spec.id]:
                    # Another placement may have the machine by now.
                    raise Unreachable("no caller waits for the machine any more")
                try:
                    await docker.containers.create(self._config(spec, host, has_file), name=name)
                    break
                except aiodocker.DockerError as error:
                    if is_taken_name(error):
                        return await self._again(spec)
                    if attempt == 2 or error.status != 404:
                        raise
                    self._capacity.give_back(spec.id)
                    await self._images.have(spec.image)
        return await self._start(spec, has_file=has_file)

    def _created(self, machine_id: str, done: asyncio.Task[MachineStatus]) -> None:
        del self._creating[machine_id]
        self._capacity.give_back(machine_id)
        if not done.cancelled():
            done.exception()  # mark it as retrieved: waiting callers have it, others look the machine up

    async def _again(self, spec: MachineSpec) -> MachineStatus:
        """Return the machine of an earlier create; start it if that create did not."""
        machine_id = spec.id
        try:
            async with asyncio.timeout(VISIBLE_SECONDS):
                while True:
                    if (found := await self._look(machine_id)) is not None:
                        break
                    # Another create goes on: the engine reserves a name before its container is visible.
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise Unreachable(
                f"the name {self._name(machine_id)} is taken, and within {VISIBLE_SECONDS:.0f} s the engine "
                "showed no container for it: it is not this deployment's, or is being removed"
            ) from None
        return await self._going(spec, found)

    async def _going(self, spec: MachineSpec, found: Mapping[str, Any]) -> MachineStatus:
        """Return the status of an existing container; start it if its creator did not."""
        if found["State"]["Status"] == "created":
            # It is unknown whether it has its variables already; handing them over twice is harmless.
            return await self._start(spec, has_file=LABEL in found["Config"]["Labels"])
        return await self._status(spec.id, found)

    async def _start(self, spec: MachineSpec, *, has_file: bool) -> MachineStatus:
        """Start a created container. Any error but `Unreachable` means that it no longer exists."""
        machine_id = spec.id
        try:
            with self._engine.translated():
                container = await self._container(machine_id)
                if has_file:
                    await self._hand_over(spec)
                await container.start()
        except Unreachable:
            raise
        except ProviderError as error:
            # It exists and will never run.
            try:
                await self._remove(machine_id)
            except ProviderError as left:
                raise Unreachable(f"it cannot be started: {error}; nor removed: {left}") from left
            raise
        return MachineStatus(machine_id, MachineState.started)

    async def _hand_over(self, spec: MachineSpec) -> None:
        """Write the hidden variables into a created container."""
        docker = await self._engine.docker()
        packed = archive(split(spec.agent_environment, spec.environment)[1])
        # The client's own method cannot read the empty answer.
        path = f"containers/{self._name(spec.id)}/archive"
        headers = {"Content-Type": "application/x-tar"}
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
        asked = docker._query(
            path, "PUT", params={"path": DIRECTORY}, data=packed, headers=headers, timeout=timeout
        )
        try:
            async with asked as answer:
                await answer.read()
        except aiodocker.DockerError as error:
            # The engine's proxy answers so if another caller has started it, with its variables.
            if error.status != HAS_RUN:
                raise

    async def _remove(self, machine_id: str) -> None:
        with self._engine.translated(gone_is_fine=True):
            # Without one, there is no limit at all.
            timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
            await (await self._container(machine_id)).delete(force=True, v=True, timeout=timeout)

    async def _look(self, machine_id: str) -> Mapping[str, Any] | None:
        """Inspect a container that may exist; an error does not mean that it does not."""
        try:
            return await self._inspect(machine_id)
        except ProviderError as error:
            raise Unreachable(f"it may exist, and cannot be examined: {error}") from error

    async def _inspect(self, machine_id: str) -> Mapping[str, Any] | None:
        """Return the engine's view of the machine's container; None if there is none of this deployment.

        Raises:
            Unreachable: The engine answered with another container, besides the usual causes.
        """
        found: Mapping[str, Any] | None = None
        with self._engine.translated(gone_is_fine=True):
            found = await (await self._container(machine_id)).show()
        if found is None:
            return None
        if (name := found["Name"].lstrip("/")) != self._name(machine_id):
            raise Unreachable(
                f"the engine answered with container {name} when asked for {self._name(machine_id)}"
            )
        ours = machine_id_of(self._place, [name], found["Config"]["Labels"]) == machine_id
        return found if ours else None

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        if await self._inspect(machine_id) is None:
            return None
        # One more line than returned shows that some are left out.
        wanted = {"tail": lines + 1, "since": since(after or 0), "timestamps": True}
        printed = await self._printed(machine_id, LOG_BYTES, **wanted)
        if printed is None:
            return None
        unread = (UNREAD,) if printed.is_unread else ()
        room = LOG_BYTES - sum(len(line) + 1 for line in unread)
        part = part_of(printed.pieces, lines, after or 0, room, is_cut=printed.is_cut)
        return replace(part, lines=(*part.lines, *unread))

    async def _printed(self, machine_id: str, most: int, **parameters: Any) -> Printed | None:
        """Return the end of the container's output; None if it is gone."""
        with self._engine.translated(gone_is_fine=True):
            docker = await self._engine.docker()
            async with asyncio.timeout(LOG_SECONDS):
                return await read_pieces(docker, self._name(machine_id), most, **parameters)
        return None

    async def _status(self, machine_id: str, found: Mapping[str, Any]) -> MachineStatus:
        state = found["State"]
        if state_of(state["Status"]) is not MachineState.gone:
            return MachineStatus(machine_id, state_of(state["Status"]))
        printed = ""
        try:
            last = await self._printed(machine_id, TAIL_BYTES, tail=TAIL_LINES)
            printed = last.text() if last else ""
        except ProviderError as error:
            # The exit code is known nevertheless.
            log.warning("machine %s: its last lines cannot be read: %s", machine_id, error)
        limit = found["HostConfig"]["Memory"] // 2**20 if state.get("OOMKilled") else None
        self._removal.told([machine_id])
        return MachineStatus(machine_id, MachineState.gone, state["ExitCode"], printed, limit)

    async def _containers(self) -> list[Mapping[str, Any]]:
        with self._engine.translated():
            found = await (await self._engine.docker()).containers.list(
                all="true", filters=f'{{"label": ["{DEPLOYMENT_LABEL}={self._place.deployment}"]}}'
            )
        listed = [one._container for one in found]
        # Compared despite the filter: ended containers in this list are removed.
        return [one for one in listed if machine_id_of(self._place, one["Names"], one["Labels"])]

    async def _info(self) -> Mapping[str, Any]:
        with self._engine.translated():
            return await (await self._engine.docker()).system.info()

    def _config(self, spec: MachineSpec, host: str, has_file: bool) -> dict[str, Any]:
        seconds = math.ceil((spec.max_duration + self._late).total_seconds())
        shown = split(spec.agent_environment, spec.environment)[0] if has_file else spec.whole_environment
        environment = {
            "HOME": "/tmp",  # noqa: S108 - its own, not the host's
            **thread_variables(spec.cpu),
            BOT_FILE_VARIABLE: spec.bot_file,
            MACHINE_VARIABLE: spec.id,
            **shown,
        }
        facts = Facts(
            machine_id=spec.id,
            image=spec.image,
            nano_cpus=round(spec.cpu * 1e9),
            memory_mb=spec.memory_mb,
            seconds=seconds,
            arguments=without_secrets(spec.arguments),
            environment=tuple(f"{name}={value}" for name, value in environment.items()),
            has_file=has_file,
            host=host,
        )
        return body(self._place, facts)

    def _name(self, machine_id: str) -> str:
        return self._place.name(machine_id)

    async def _container(self, machine_id: str) -> DockerContainer:
        return (await self._engine.docker()).containers.container(self._name(machine_id))
