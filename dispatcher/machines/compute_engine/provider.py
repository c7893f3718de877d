"""The `compute-engine` provider: a machine is a VM, which powers off when its bot is done.

A VM's name is `<deployment>-<machine id>`, and its `requestId` follows from that: a second create in a zone
is given the first one's operation. Labels tell whose it is.

Three deadlines hold without a dispatcher: the bot's own; `timeout`, the container's first program; and
`maxRunDuration`, at which Compute Engine deletes the VM. A VM that has powered off costs its disk until it is
deleted, which the orphan scan does once the machine's end is on record.

A create waits for its VM to run. A zone without capacity often says so only after a while, in the operation;
then the next zone is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta

from dispatcher.clock import Clock, SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.compute_engine.client import ComputeApi, Operation
from dispatcher.machines.compute_engine.finder import Finder, Found, first
from dispatcher.machines.compute_engine.request import Place, instance
from dispatcher.machines.compute_engine.status import LEFT, state_of
from dispatcher.machines.google.errors import of_operation
from dispatcher.machines.provider import (
    Action,
    LogPart,
    MachineSpec,
    NoCapacity,
    Preparation,
    ProviderError,
    Rejected,
    Unreachable,
)
from dispatcher.machines.removal import Removal
from dispatcher.rate_limit import Rate
from dispatcher.tasks import Background, end_tasks, within

log = logging.getLogger(__name__)

CREATE_RATE, STOP_RATE = Rate(15, burst=60), Rate(10, burst=40)
"""Inserts and deletions share a quota of 1,500 a minute in a region: both together keep to that."""

CREATE_SECONDS = 180.0
"""Limit on a create's wait for its VM. A VM runs after some ten seconds; a zone without capacity may take a
minute and more to say so."""

SETTLING = timedelta(seconds=10)
"""Time that an insert whose caller has gone may go on; Compute Engine documents none."""

FULL_SECONDS = 30.0
"""A zone without capacity is not asked again for so long."""

WAIT_AGAIN_SECONDS = 2.0
"""Pause between two waits for one operation: Compute Engine may answer at once, and goes by a rate quota."""

STEP_SECONDS = 60.0
"""Limit on an operation that suspends or resumes a VM."""

REMEMBERED_STOPS = 10_000
"""Machines that were told to stop, which no further zone is asked for."""


class ComputeEngineProvider:
    """Machines at Compute Engine."""

    name = "compute-engine"
    settling = SETTLING
    create_seconds = CREATE_SECONDS

    def __init__(self, api: ComputeApi, place: Place, clock: Clock | None = None) -> None:
        self._api = api
        self._place = place
        self._clock = clock or SystemClock()
        self._finder = Finder(api, place, self._clock, SETTLING.total_seconds())
        self._full_until: dict[str, float] = {}
        """Zone → monotonic time until which it is not asked."""
        self._stopped: OrderedDict[str, None] = OrderedDict()
        self._removal = Removal(self._remove)
        self._background = Background(self._clock)
        self._learning: asyncio.Task[None] | None = None

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """Creates and stops. Each call takes a turn of its own besides."""
        return {"create": CREATE_RATE, "stop": STOP_RATE}

    @property
    def ended(self) -> Collection[str]:
        return self._removal.ended

    def recorded(self, machine_ids: Iterable[str]) -> None:
        self._removal.told(machine_ids)

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """List the machines, and so find out whether the credentials are good for the project."""
        self._learning = asyncio.create_task(self._learn())

    async def close(self) -> None:
        if self._learning is not None:
            await end_tasks(self._learning)
        await self._removal.close()
        await self._background.close(0)
        await self._api.close()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        template = self._place.template(spec.agent)
        body = instance(self._place, spec, await self._api.template_items(template))
        until = min(spec.answer_by, self._clock.now() + CREATE_SECONDS)
        full: NoCapacity | None = None
        for zone in self._place.zones:
            if self._clock.monotonic() < self._full_until.get(zone, float("-inf")):
                # An earlier create of this machine may have found the zone while it had capacity.
                if (shown := await self._finder.show(zone, spec.id)) is not None:
                    return MachineStatus(spec.id, state_of(shown))
                continue
            request_id = self._place.request_id(spec.id, zone)
            try:
                operation = await self._api.insert(zone, body, template, request_id)
                if operation is None:
                    return await self._of_an_earlier_create(zone, spec.id)
                self._check(operation, zone, spec.id)
                self._finder.given(spec.id, zone)
                return await self._started(zone, operation, spec.id, until)
            except NoCapacity as error:
                log.info("machine %s: %s has no capacity: %s", spec.id, zone, error)
                self._full_until[zone] = self._clock.monotonic() + FULL_SECONDS
                full = error
            if spec.id in self._stopped:
                break
        raise full or NoCapacity(
            f"{', '.join(self._place.zones)} had no capacity less than {FULL_SECONDS:.0f} s ago"
        )

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = await self._finder.look(machine_id)
        if found is None:
            is_new = self._finder.zone_of_new(machine_id) is not None
            return MachineStatus(machine_id, MachineState.requested) if is_new else None
        zone, shown = found
        state = state_of(shown)
        if shown.get("status") not in LEFT:
            return MachineStatus(machine_id, state)
        code = await self._api.exit_code(zone, self._place.name(machine_id))
        return MachineStatus(machine_id, state, code)

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Yield every machine of all zones that is not gone.

        The error of a zone that cannot be asked is raised at the end, after the machines of the others.
        """
        every: dict[str, list[Found]] = {}
        failed: ProviderError | None = None
        try:
            async with aclosing(self._finder.machines()) as machines:
                async for machine_id, zone, shown in machines:
                    every.setdefault(machine_id, []).append((zone, shown))
                    if len(every[machine_id]) == 1 and state_of(shown) is not MachineState.gone:
                        yield MachineStatus(machine_id, state_of(shown))
        except ProviderError as error:
            failed = error
        gone: list[str] = []
        for machine_id, found in every.items():
            chosen = first(found)
            self._finder.remember(machine_id, chosen[0])
            if state_of(chosen[1]) is MachineState.gone:
                gone.append(machine_id)
            elif state_of(found[0][1]) is MachineState.gone:
                yield MachineStatus(machine_id, state_of(chosen[1]))
            self._end_others(machine_id, found, chosen)
        if failed is not None:
            raise failed
        self._removal.listed(gone)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """Delete the machine's VMs. Compute Engine shuts each down first, and kills what is left then."""
        self._stopped[machine_id] = None
        if len(self._stopped) > REMEMBERED_STOPS:
            self._stopped.popitem(last=False)
        found = await self._finder.every(machine_id)
        zones = [zone for zone, shown in found if shown.get("status") != "DEPROVISIONING"]
        if not found and (zone := self._finder.zone_of_new(machine_id)) is not None:
            # It may not be shown yet, and is there to be deleted.
            zones = [zone]
        for zone in zones:
            await self._api.delete(zone, self._place.name(machine_id))

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Say where the log is: the Compute Engine API has none."""
        raise Rejected(
            "Cloud Logging keeps it, read it with `gcloud logging read "
            f'\'labels."compute.googleapis.com/resource_name"="{self._place.name(machine_id)}"\' '
            f"--project {self._place.project}`"
        )

    async def suspend(self, machine_id: str) -> None:
        """Suspend the VM, which then costs its disk and its memory's. Compute Engine keeps it for 60 days."""
        zone, name = await self._existing(machine_id)
        await self._done(zone, await self._api.suspend(zone, name), f"machine {machine_id} suspended")

    async def resume(self, machine_id: str) -> MachineStatus:
        zone, name = await self._existing(machine_id)
        await self._done(zone, await self._api.resume(zone, name), f"machine {machine_id} running again")
        return MachineStatus(machine_id, MachineState.started)

    def _check(self, operation: Operation, zone: str, machine_id: str) -> None:
        """Check that an operation is about the machine.

        Raises:
            Unreachable: It is not, so nothing is known.
        """
        wanted = f"/zones/{zone}/instances/{self._place.name(machine_id)}"
        if not operation.get("targetLink", "").endswith(wanted):
            raise Unreachable(
                f"Compute Engine answered with an operation on {operation.get('targetLink')}, not on {wanted}"
            )

    async def _started(self, zone: str, operation: Operation, machine_id: str, until: float) -> MachineStatus:
        """Wait until the VM runs, or certainly will not; answer by `until`."""
        try:
            done = await self._finished(zone, operation, until)
        except ProviderError as error:
            log.debug("machine %s: its operation could not be read: %s", machine_id, error)
            return MachineStatus(machine_id, MachineState.requested)
        self._check(done, zone, machine_id)
        if errors := done.get("error", {}).get("errors"):
            error = of_operation(errors, f"the machine in {zone}")
            if not isinstance(error, Unreachable):
                self._finder.failed(machine_id)
            raise error
        return MachineStatus(machine_id, MachineState.started)

    async def _finished(self, zone: str, operation: Operation, until: float) -> Operation:
        """Return the operation when it is done.

        Raises:
            Unreachable: It is not, by `until` (Unix seconds), or cannot be read.
        """
        asked_at = float("-inf")
        while operation.get("status") != "DONE":
            late = Unreachable("the operation is not done yet")
            if (pause := asked_at + WAIT_AGAIN_SECONDS - self._clock.monotonic()) > 0:
                await self._clock.sleep(min(pause, max(0.0, until - self._clock.now())))
            if (left := until - self._clock.now()) <= 0:
                raise late
            asked_at = self._clock.monotonic()
            operation = await within(self._clock, left, self._api.wait(zone, operation), late)
        return operation

    async def _done(self, zone: str, operation: Operation, what: str) -> None:
        done = await self._finished(zone, operation, self._clock.now() + STEP_SECONDS)
        if errors := done.get("error", {}).get("errors"):
            raise of_operation(errors, what)

    async def _of_an_earlier_create(self, zone: str, machine_id: str) -> MachineStatus:
        """Return the machine whose name is taken."""
        shown = await self._finder.show(zone, machine_id)
        if shown is None:
            raise Unreachable(f"the name of machine {machine_id} is taken in {zone}, and shows nothing")
        self._finder.remember(machine_id, zone)
        return MachineStatus(machine_id, state_of(shown))

    async def _existing(self, machine_id: str) -> tuple[str, str]:
        found = await self._finder.look(machine_id)
        if found is None or state_of(found[1]) is MachineState.gone:
            raise Rejected(f"machine {machine_id} no longer exists")
        return found[0], self._place.name(machine_id)

    def _end_others(self, machine_id: str, found: Iterable[Found], chosen: Found) -> None:
        """Delete a machine's VMs in all zones but one, in the background."""
        for zone, shown in found:
            if zone != chosen[0] and shown.get("status") != "DEPROVISIONING":
                log.warning(
                    "machine %s is in %s and in %s: the latter is deleted", machine_id, chosen[0], zone
                )
                self._background.spawn(self._end(zone, machine_id))

    async def _end(self, zone: str, machine_id: str) -> None:
        try:
            await self._api.delete(zone, self._place.name(machine_id))
        except ProviderError as error:
            log.warning("machine %s in %s cannot be deleted: %s", machine_id, zone, error)

    async def _remove(self, machine_id: str) -> None:
        """Delete what is left of a machine that has ended."""
        for zone, shown in await self._finder.every(machine_id):
            if shown.get("status") in LEFT:
                await self._api.delete(zone, self._place.name(machine_id))

    async def _learn(self) -> None:
        try:
            count = len([status async for status in self.list()])
        except ProviderError as error:
            log.warning("the machines of project %s could not be listed: %s", self._place.project, error)
        else:
            log.info("Compute Engine: %d machines in project %s", count, self._place.project)
