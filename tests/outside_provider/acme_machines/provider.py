"""The provider, and the cloud that it asks: a dictionary for each region."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.provider import MachineSpec, Unreachable

EXIT_AFTER, EXIT_CODE = "ACME_EXIT_AFTER", "ACME_EXIT_CODE"
"""Variables of a machine that ends by itself: after so many seconds, with this status."""

KILLED, TERMINATED = 137, 143


@dataclass
class Instance:
    """A machine of Acme's."""

    name: str
    machine_id: str
    ends_at: float
    exit_code: int


@dataclass
class Region:
    """The machines of one region."""

    instances: dict[str, Instance] = field(default_factory=dict)
    filters: bool = True
    """False if a list ignores its filter."""
    mixed_up: dict[str, str] = field(default_factory=dict)
    """Name that is asked for → name of the instance that is shown."""

    def show(self, name: str) -> Instance | None:
        return self.instances.get(self.mixed_up.get(name, name))

    def list(self, prefix: str) -> list[Instance]:
        return [one for one in self.instances.values() if not self.filters or one.name.startswith(prefix)]


REGIONS: dict[str, Region] = {}
"""Region's name → its machines, for all of this process."""


class AcmeProvider:
    """Machines in one region of Acme."""

    name = "acme"

    def __init__(self, region: Region, deployment: str, clock: Clock) -> None:
        self._region = region
        self._deployment = deployment
        self._clock = clock

    async def create(self, spec: MachineSpec) -> MachineStatus:
        await asyncio.sleep(0)
        if self._find(spec.id) is None:
            name, now = self._name(spec.id), self._clock.now()
            limit = spec.max_duration.total_seconds()
            after = float(spec.environment.get(EXIT_AFTER, "inf"))
            code = int(spec.environment.get(EXIT_CODE, "0")) if after < limit else KILLED
            self._region.instances[name] = Instance(name, spec.id, now + min(after, limit), code)
        return MachineStatus(spec.id, MachineState.started)

    async def get(self, machine_id: str) -> MachineStatus | None:
        found = self._find(machine_id)
        return None if found is None else self._status(found)

    async def list(self) -> AsyncIterator[MachineStatus]:
        for one in self._region.list(f"{self._deployment}-"):
            # Compared, whatever was filtered: a machine of others must not be taken for an orphan.
            status = self._status(one)
            if one.name == self._name(one.machine_id) and status.state is not MachineState.gone:
                yield status

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        found = self._find(machine_id)
        if found is not None and found.ends_at > self._clock.now():
            found.ends_at, found.exit_code = self._clock.now(), TERMINATED

    def _name(self, machine_id: str) -> str:
        return f"{self._deployment}-{machine_id}"

    def _find(self, machine_id: str) -> Instance | None:
        name = self._name(machine_id)
        found = self._region.show(name)
        if found is not None and found.name != name:
            raise Unreachable(f"asked for {name}, Acme showed {found.name}")
        return found

    def _status(self, one: Instance) -> MachineStatus:
        if one.ends_at > self._clock.now():
            return MachineStatus(one.machine_id, MachineState.started)
        return MachineStatus(one.machine_id, MachineState.gone, one.exit_code)
