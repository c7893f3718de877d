"""A Fargate task of the fake: its life from PROVISIONING to STOPPED, and what ECS shows of it."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Any

from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks
from tests.ecs.model import moment
from tests.fly.processes import SIGKILLED, Launch, Process, Start

OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"


@dataclass(frozen=True)
class Times:
    """Seconds that the stages of a task's life take."""

    place: float = 8.0
    pull: float = 15.0
    boot: float = 3.0
    stop_timeout: float = 30.0
    """Between SIGTERM and SIGKILL: `stopTimeout` of the container."""
    deprovision: float = 10.0


@dataclass(frozen=True)
class Definition:
    """A registered task definition."""

    cpu: int = 1024
    memory_mb: int = 2048
    container: str = "bot"
    entry_point: tuple[str, ...] = ("/usr/bin/env",)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    """Variable → value; ECS reads it from the secret store when the task starts."""


@dataclass
class Task:
    arn: str
    request: dict[str, Any]
    definition_arn: str
    definition: Definition
    kind: str
    """FARGATE or FARGATE_SPOT."""
    subnet: str
    zone: str
    clock: Clock
    created_at: float
    status: str = "PROVISIONING"
    desired: str = "RUNNING"
    version: int = 1
    stamps: dict[str, float] = field(default_factory=dict)
    stop_code: str = ""
    stopped_reason: str = ""
    exit_code: int | None = None
    reason: str = ""
    """The container's."""
    tags: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    life: asyncio.Task[None] | None = None
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def started_by(self) -> str:
        return self.request.get("startedBy", "")

    @property
    def override(self) -> dict[str, Any]:
        return self.request.get("overrides", {}).get("containerOverrides", [{}])[0]

    @property
    def runs(self) -> bool:
        return self.process is not None and self.exit_code is None

    async def live(self, start: Start, times: Times, failure: str) -> None:
        """Run its course.

        Args:
            failure: The reason for which it does not start; empty: it does.
        """
        if await self._starts(start, times, failure):
            await self._until_exit(times)
        self._now("DEPROVISIONING", "executionStoppedAt")
        await self.clock.sleep(times.deprovision)
        self._now("STOPPED", "stoppedAt")

    async def _starts(self, start: Start, times: Times, failure: str) -> bool:
        """Go through the stages of a start; False if it ends before its program runs."""
        if await self._pause(times.place):
            return False
        self._now("PENDING", "pullStartedAt")
        if await self._pause(times.pull):
            return False
        if failure:
            self.stop_code, self.stopped_reason, self.desired = "TaskFailedToStart", failure, "STOPPED"
            return False
        self._now("ACTIVATING", "pullStoppedAt")
        if await self._pause(times.boot):
            return False
        self.process = start(self._launch(), self.clock)
        self._now("RUNNING", "startedAt")
        return True

    def stop(self, code: str, reason: str) -> None:
        """Ask it to end. A task that is ending goes on doing so."""
        if self.desired == "STOPPED":
            return
        self.desired, self.stop_code, self.stopped_reason = "STOPPED", code, reason
        self.tags.clear()
        self._now(self.status, "stoppingAt")
        self._stopping.set()

    def shown(self, cluster_arn: str) -> dict[str, Any]:
        """The task in DescribeTasks's answer."""
        container: dict[str, Any] = {
            "containerArn": self.arn.replace(":task/", ":container/"),
            "taskArn": self.arn,
            "name": self.definition.container,
            "lastStatus": "STOPPED" if self.status in ("DEPROVISIONING", "STOPPED") else self.status,
        }
        if self.exit_code is not None:
            container["exitCode"] = self.exit_code
        if self.reason:
            container["reason"] = self.reason
        made: dict[str, Any] = {
            "taskArn": self.arn,
            "clusterArn": cluster_arn,
            "taskDefinitionArn": self.definition_arn,
            "lastStatus": self.status,
            "desiredStatus": self.desired,
            "startedBy": self.started_by,
            "version": self.version,
            "cpu": str(self.definition.cpu),
            "memory": str(self.definition.memory_mb),
            "availabilityZone": self.zone,
            "platformVersion": "1.4.0",
            "overrides": self.request.get("overrides", {}),
            "containers": [container],
            "tags": [{"key": key, "value": value} for key, value in self.tags.items()],
            "attachments": [
                {
                    "id": self.arn[-12:],
                    "type": "ElasticNetworkInterface",
                    "status": "ATTACHED",
                    "details": [{"name": "subnetId", "value": self.subnet}],
                }
            ],
            "createdAt": moment(self.created_at),
            **{name: moment(at) for name, at in self.stamps.items()},
        }
        if "capacityProviderStrategy" in self.request:
            made["capacityProviderName"] = self.kind
        else:
            made["launchType"] = "FARGATE"
        if self.stop_code:
            made |= {"stopCode": self.stop_code, "stoppedReason": self.stopped_reason}
        return made

    async def _until_exit(self, times: Times) -> None:
        assert self.process is not None
        ending = asyncio.ensure_future(self.process.wait())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await end_tasks(ending, stopping)
            raise
        if not ending.done():
            self._now("STOPPING")
            self.process.send(signal.SIGTERM)
            killing = asyncio.ensure_future(self.clock.sleep(times.stop_timeout))
            await asyncio.wait({ending, killing}, return_when=asyncio.FIRST_COMPLETED)
            killing.cancel()
            if not ending.done():
                self.process.send(signal.SIGKILL)
        ended = await ending
        stopping.cancel()
        self.exit_code = ended.code
        if ended.oom:
            self.exit_code, self.reason = SIGKILLED, OUT_OF_MEMORY
        if not self.stop_code:
            self.desired = "STOPPED"
            self.stop_code = "EssentialContainerExited"
            self.stopped_reason = "Essential container in task exited"

    def _launch(self) -> Launch:
        variables = {one["name"]: one["value"] for one in self.override.get("environment", [])}
        command = (*self.definition.entry_point, *self.override.get("command", []))
        environment = {**self.definition.environment, **self.definition.secrets, **variables}
        return Launch(self.started_by, _without_env(command), environment, self.definition.memory_mb)

    async def _pause(self, seconds: float) -> bool:
        """Wait; True if it was told to stop meanwhile."""
        sleeping = asyncio.ensure_future(self.clock.sleep(seconds))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        stopping.cancel()
        return self._stopping.is_set()

    def _now(self, status: str, stamp: str = "") -> None:
        self.status = status
        self.version += 1
        if stamp:
            self.stamps[stamp] = self.clock.now()


def _without_env(command: tuple[str, ...]) -> tuple[str, ...]:
    """`env` runs the rest of its command line in its own place."""
    return command[1:] if command[:1] == ("/usr/bin/env",) else command
