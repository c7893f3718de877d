"""The `fly` provider: a machine is a Fly Machine, which destroys itself when its bot has exited.

Its name is `<deployment>-<machine id>`, and names are unique in an app: so a second create finds the first
one's machine. Its metadata says whose it is.

Fly keeps no deadline. Three others do: the bot itself; `timeout`, the machine's first program; and the
reaper, while there is a dispatcher.

Fly limits creates per app, so machines can be spread over several: the app of a new machine follows from its
id. Callers that repeat a create look the machine up first, as the fleet does: with another list of apps it
may be in another app.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta

import httpx

from dispatcher.clock import Clock, SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.fly.client import LONGEST_WAIT, FlyApi, Machine, NameTaken
from dispatcher.machines.fly.finder import RATE, Finder
from dispatcher.machines.fly.protocol import FlyTokens
from dispatcher.machines.fly.request import STOP_SIGNAL, Place, body
from dispatcher.machines.fly.sizes import CpuKind
from dispatcher.machines.fly.status import (
    LEFT,
    SUSPENDED,
    has_run,
    history,
    is_machine,
    lacks_image,
    state_of,
    status_of,
)
from dispatcher.machines.provider import (
    Action,
    LogPart,
    MachineSpec,
    NoCapacity,
    Preparation,
    ProviderError,
    Rate,
    Rejected,
    Throttled,
    Unreachable,
)
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

START_SECONDS = 18.0
"""Limit on a create's wait for its machine to start. The fleet waits for 20 s; a slower machine is returned
as created, not started."""

SETTLING = timedelta(seconds=10)
"""Time that a create whose caller has gone may go on; Fly documents none."""

LEASE_SECONDS = 15
"""Lease beyond the grace, held by the dispatcher that stops a machine. If it dies, other dispatchers cannot
touch the machine for that long."""


class FlyProvider:
    """Machines at Fly.

    Args:
        url: The Machines API.
        tokens: Deploy tokens of the apps.
        deployment: Distinguishes this deployment's machines from others in the same apps; their names begin
            with it.
        apps: The apps that machines are spread over.
        draining_apps: Former apps. They get no new machines; their existing ones are still managed.
        region: A region, or several in order of preference, separated by commas; empty: the nearest.
        cpu_kind: See `FlyPlacement.cpu_kind`.
        late: Time from a session's deadline until its machine ends itself.
    """

    name = "fly"
    settling = SETTLING

    def __init__(
        self,
        *,
        url: str,
        tokens: FlyTokens,
        deployment: str,
        apps: tuple[str, ...],
        draining_apps: tuple[str, ...] = (),
        region: str = "",
        cpu_kind: CpuKind = "performance",
        late: timedelta = timedelta(seconds=30),
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = FlyApi(url, tokens, transport)
        self._place = Place(deployment, apps, region, cpu_kind, late, draining_apps)
        self._clock = clock or SystemClock()
        self._leases: dict[str, str] = {}
        """Machine that this process is stopping → its lease's nonce."""
        self._finder = Finder(self._api, self._place, self._clock)
        self._learning: asyncio.Task[None] | None = None
        self._tidying: dict[str, asyncio.Task[None]] = {}
        """Fly's name of a machine → the task that destroys it."""

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """Rate limit of creates, per lane.

        Lists are also used for look-ups, and have their own limit. Other actions are limited per machine, and
        are called far less often.
        """
        return {"create": RATE}

    def lane(self, machine_id: str) -> str:
        """Return the app in which the machine is to be created."""
        return self._place.app(machine_id)

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """List the machines, and so find out whether the token is valid for the apps."""
        self._learning = asyncio.create_task(self._learn())

    async def close(self) -> None:
        if self._learning is not None:
            await end_tasks(self._learning)
        if self._tidying:
            await end_tasks(*self._tidying.values())
        await self._api.close()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        deadline = self._clock.monotonic() + START_SECONDS
        app = self._place.app(spec.id)
        try:
            machine = self._finder.checked(await self._api.create(app, body(self._place, spec)), spec.id)
        except NameTaken as taken:
            machine = await self._of_an_earlier_create(app, spec.id, taken)
        self._finder.remember(spec.id, app, machine)
        try:
            return await self._started(app, spec.id, machine, deadline)
        except (NoCapacity, Rejected):
            raise
        except ProviderError as error:
            log.debug("machine %s: created; its start is not confirmed: %s", spec.id, error)
            return MachineStatus(spec.id, MachineState.requested)

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = await self._finder.look(machine_id)
        return None if found is None else status_of(machine_id, found)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine of all apps that is not gone; destroy those that have ended.

        The error of an app that cannot be asked is raised at the end, after the machines of the others.
        """
        async with aclosing(self._finder.machines()) as machines:
            async for app, machine_id, machine in machines:
                if machine["state"] in LEFT:
                    self._tidy_up(app, machine)
                elif (state := state_of(machine)) is not MachineState.gone:
                    yield MachineStatus(machine_id, state)

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Raise an error that says where the log is: the Machines API has none, and a deploy token cannot
        read it."""
        if await self._finder.look(machine_id) is None:
            raise Rejected("Fly removed the machine; `fly logs --app <its app>` has its lines for some days")
        app, at_fly = self._finder.place(machine_id)
        raise Rejected(f"Fly keeps it, read it with `fly logs --app {app} --machine {at_fly}`")

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """Stop the machine. One dispatcher at a time: the second waits for the first one's stop."""
        found = await self._finder.look(machine_id)
        if found is None:
            return
        app, at_fly = self._finder.place(machine_id)
        state = state_of(found)
        if state is MachineState.gone and found["state"] not in LEFT:
            return
        seconds = math.ceil(grace.total_seconds())
        if seconds == 0 or state is not MachineState.started:
            await self._api.delete(app, at_fly, self._leases.pop(machine_id, None))
            return
        nonce = await self._api.lease(app, at_fly, seconds + LEASE_SECONDS, self._leases.get(machine_id))
        if nonce is None:
            await self._stopped_by_another(app, machine_id, found, seconds)
            return
        # Kept until the stop has worked: else a retry would wait for its own lease to expire.
        self._leases[machine_id] = nonce
        if await self._api.stop(app, at_fly, STOP_SIGNAL, seconds, nonce):
            await self._wait(app, found, ("stopped", "destroyed", "failed"), seconds + 1)
        await self._api.delete(app, at_fly, nonce)
        self._leases.pop(machine_id, None)

    async def suspend(self, machine_id: str) -> None:
        """Freeze the machine. Fly suspends machines of at most 2 GB."""
        app, found = await self._existing(machine_id)
        await self._api.suspend(app, found["id"])
        await self._reach(app, machine_id, found, "suspended")

    async def resume(self, machine_id: str) -> MachineStatus:
        """Resume the machine. Fly may have lost its memory; its program then starts anew."""
        app, found = await self._existing(machine_id)
        if found["state"] in SUSPENDED:
            await self._api.start(app, found["id"])
        await self._reach(app, machine_id, found, "started")
        return MachineStatus(machine_id, MachineState.started)

    async def _started(self, app: str, machine_id: str, machine: Machine, deadline: float) -> MachineStatus:
        """Wait until the machine runs, or certainly will not."""
        if state_of(machine) is MachineState.requested:
            left = deadline - self._clock.monotonic()
            reached = await self._api.wait(app, machine, ("started", "failed", "destroyed"), left)
            if reached is None:
                return MachineStatus(machine_id, MachineState.requested)
            if reached == "started":
                return MachineStatus(machine_id, MachineState.started)
            shown = await self._api.show(app, machine["id"])
            if shown is None:
                return MachineStatus(machine_id, MachineState.gone)
            machine = shown
        if state_of(machine) is MachineState.gone and not has_run(machine):
            if machine["state"] in LEFT:
                await self._tidy(app, machine)
            words = (
                f"Fly could not start the machine: its state is '{machine['state']}', "
                f"its events are: {history(machine)}"
            )
            # A bad image fails on every host. Any other cause may be the host's.
            raise Rejected(words) if lacks_image(machine) else NoCapacity(words)
        return status_of(machine_id, machine)

    async def _of_an_earlier_create(self, app: str, machine_id: str, taken: NameTaken) -> Machine:
        """Return the machine that has the name already."""
        machine = (
            await self._api.show(app, taken.id) if taken.id else await self._finder.find(app, machine_id)
        )
        name = self._place.name(machine_id)
        if machine is None:
            raise Unreachable(f"the name {name} is taken by a machine that cannot be seen")
        if not is_machine(machine, self._place, machine_id):
            raise Rejected(
                f"the name {name} in app {app} is taken by a machine that is not this deployment's"
            )
        return machine

    async def _existing(self, machine_id: str) -> tuple[str, Machine]:
        found = await self._finder.look(machine_id)
        if found is None or state_of(found) is MachineState.gone:
            raise Rejected(f"machine {machine_id} no longer exists")
        return self._finder.place(machine_id)[0], found

    async def _reach(self, app: str, machine_id: str, machine: Machine, state: str) -> None:
        if not await self._wait(app, machine, (state, "failed", "destroyed"), START_SECONDS, state):
            raise Unreachable(f"machine {machine_id} is not {state} after {START_SECONDS:.0f} s")

    async def _stopped_by_another(self, app: str, machine_id: str, machine: Machine, seconds: float) -> None:
        if not await self._wait(app, machine, ("destroyed",), seconds + 1):
            raise Unreachable(
                f"machine {machine_id} is being stopped by another dispatcher, and is not gone yet"
            )

    async def _wait(
        self, app: str, machine: Machine, states: tuple[str, ...], seconds: float, wanted: str | None = None
    ) -> bool:
        """Wait for one of these states, longer than one call may; return True if one was reached."""
        deadline = self._clock.monotonic() + seconds
        while (left := deadline - self._clock.monotonic()) > 0:
            try:
                reached = await self._api.wait(app, machine, states, min(math.ceil(left), LONGEST_WAIT))
            except Throttled as throttled:
                await self._clock.sleep(throttled.retry_after)
                continue
            if reached is not None:
                return wanted is None or reached == wanted
        return False

    def _tidy_up(self, app: str, machine: Machine) -> None:
        """Destroy the machine in the background: many would make a listing too slow."""
        if machine["id"] not in self._tidying:
            task = asyncio.create_task(self._tidy(app, machine))
            self._tidying[machine["id"]] = task
            task.add_done_callback(lambda _: self._tidying.pop(machine["id"]))

    async def _tidy(self, app: str, machine: Machine) -> None:
        """Destroy an ended machine; after an error the next listing tries again."""
        try:
            await self._api.delete(app, machine["id"])
        except ProviderError as error:
            log.warning("Fly machine %s has ended and could not be destroyed: %s", machine["id"], error)

    async def _learn(self) -> None:
        try:
            count = len([status async for status in self.list()])
        except ProviderError as error:
            log.warning("Fly's machines could not be listed: %s", error)
        else:
            log.info("Fly: %d machines in apps %s", count, ", ".join(self._place.every_app))
