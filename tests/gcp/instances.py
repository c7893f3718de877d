"""A VM of the fake: its life from PROVISIONING to its deletion, and what Compute Engine shows of it."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks
from tests.fly.processes import Exit, Launch, Process, Start


@dataclass(frozen=True)
class Times:
    """Seconds that the stages of a VM's life take."""

    provision: float = 4.0
    stage: float = 4.0
    boot: float = 12.0
    """From RUNNING until the unit of the template has started the bot."""
    stop_timeout: float = 20.0
    """Between SIGTERM and SIGKILL in the unit's `docker stop`."""
    power_off: float = 5.0
    delete: float = 3.0
    stockout: float = 20.0
    """Until a zone without capacity says so."""
    suspend: float = 10.0
    resume: float = 6.0


@dataclass
class Vm:
    """A VM whose template has the unit of Switchboard's stacks.

    The unit runs the command in the metadata, leaves the exit code in a guest attribute, and powers off.
    """

    name: str
    zone: str
    number: int
    shape: dict[str, Any]
    """Its template with the request merged over it."""
    template: str
    clock: Clock
    created_at: float
    status: str = "PROVISIONING"
    process: Process | None = None
    exit: Exit | None = None
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    life: asyncio.Task[None] | None = None
    ran_since: float | None = None
    _power: asyncio.Event = field(default_factory=asyncio.Event)
    _deleted: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False

    @property
    def runs(self) -> bool:
        return self.process is not None and self.exit is None

    def metadata(self, key: str) -> str:
        items = (self.shape.get("metadata") or {}).get("items") or []
        return next((one["value"] for one in items if one["key"] == key), "")

    def delete(self) -> None:
        self._deleted.set()
        self._power.set()

    async def live(self, start: Start, times: Times) -> None:
        """Boot, run the unit, power off, and be deleted once that is asked for or the time is up."""
        deadline = asyncio.ensure_future(self._at_deadline())
        try:
            if not await self._pause(times.boot):
                self.process = start(self._launch(), self.clock)
                await self._until_exit(times)
            self.status = "STOPPING"
            await self.clock.sleep(times.power_off)
            if not self._deleted.is_set():
                self.status = "TERMINATED"
            await self._deleted.wait()
            self.status = "DEPROVISIONING"
            await self.clock.sleep(times.delete)
            self.gone = True
        finally:
            await end_tasks(deadline)

    def shown(self, project: str) -> dict[str, Any]:
        """Return what the API shows."""
        base = f"https://www.googleapis.com/compute/v1/projects/{project}"
        return {
            **self.shape,
            "kind": "compute#instance",
            "id": str(self.number),
            "name": self.name,
            "zone": f"{base}/zones/{self.zone}",
            "status": self.status,
            "selfLink": f"{base}/zones/{self.zone}/instances/{self.name}",
            "creationTimestamp": moment(self.created_at),
            "lastStartTimestamp": moment(self.ran_since or self.created_at),
        }

    async def _at_deadline(self) -> None:
        scheduling = self.shape["scheduling"]
        limit = scheduling.get("maxRunDuration")
        if limit is None:
            return
        await self.clock.sleep(float(limit["seconds"]))
        if scheduling["instanceTerminationAction"] == "DELETE":
            self._deleted.set()
        self._power.set()

    def _launch(self) -> Launch:
        command = tuple(json.loads(self.metadata("switchboard-command")))
        variables = json.loads(self.metadata("switchboard-variables"))
        return Launch(self.name, command, variables, 2048)

    async def _until_exit(self, times: Times) -> None:
        assert self.process is not None
        ending = asyncio.ensure_future(self.process.wait())
        power = asyncio.ensure_future(self._power.wait())
        try:
            await asyncio.wait({ending, power}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                self.status = "STOPPING"
                self.process.send(signal.SIGTERM)
                killing = asyncio.ensure_future(self.clock.sleep(times.stop_timeout))
                await asyncio.wait({ending, killing}, return_when=asyncio.FIRST_COMPLETED)
                killing.cancel()
                if not ending.done():
                    self.process.send(signal.SIGKILL)
            self.exit = await ending
        finally:
            await end_tasks(ending, power)
        if self.metadata("enable-guest-attributes") == "TRUE":
            self.attributes["switchboard"] = {"exit-code": str(self.exit.code)}

    async def _pause(self, seconds: float) -> bool:
        """Wait; True if the power button was pressed meanwhile."""
        sleeping = asyncio.ensure_future(self.clock.sleep(seconds))
        power = asyncio.ensure_future(self._power.wait())
        await asyncio.wait({sleeping, power}, return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(sleeping, power)
        return self._power.is_set()


def moment(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="milliseconds")
