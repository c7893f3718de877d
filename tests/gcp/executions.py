"""An execution of the fake: its life from its creation to its completion, and what Cloud Run shows of it."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, field
from typing import Any

from dispatcher.clock import Clock
from dispatcher.tasks import end_tasks
from tests.fly.processes import Exit, Launch, Process, Start
from tests.gcp.instances import moment

TYPE = "type.googleapis.com/google.cloud.run.v2.Execution"
GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL: "Container runtime contract"."""


@dataclass(frozen=True)
class Times:
    """Seconds that the stages of an execution's life take."""

    schedule: float = 3.0
    pull: float = 5.0
    finish: float = 1.0
    """From its container's end until the execution is complete."""


@dataclass(frozen=True)
class Job:
    """A job as the stacks make it."""

    name: str
    command: tuple[str, ...] = ("/usr/bin/env",)
    env: tuple[tuple[str, str], ...] = (("OPENAI_API_KEY", "sk-from-secret-manager"),)
    timeout: str = "600s"
    image: str = "europe-west4-docker.pkg.dev/my-project/bots/echo@sha256:" + "0" * 64


@dataclass
class Execution:
    name: str
    number: int
    job: Job
    overrides: dict[str, Any]
    clock: Clock
    created_at: float
    failure: dict[str, Any] | None = None
    """The condition with which it fails before its container runs."""
    started_at: float | None = None
    completed_at: float | None = None
    cancelled: bool = False
    process: Process | None = None
    exit: Exit | None = None
    deleted: bool = False
    _ending: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.exit is None

    @property
    def env(self) -> dict[str, str]:
        given = {one["name"]: one["value"] for one in self._override.get("env", [])}
        return {**dict(self.job.env), **given}

    @property
    def identity(self) -> str:
        return f"{self.env.get('SWITCHBOARD_DEPLOYMENT')}-{self.env.get('SWITCHBOARD_MACHINE_ID')}"

    def cancel(self) -> None:
        self.cancelled = True
        self._ending.set()

    async def live(self, start: Start, times: Times) -> None:
        """Start its container, unless it is cancelled before, and end with it, or at the task's timeout."""
        if not await self._pause(times.schedule + times.pull) and self.failure is None:
            self.started_at = self.clock.now()
            command = (*self.job.command, *self._override.get("args", []))
            without_env = command[1:] if command[:1] == ("/usr/bin/env",) else command
            launch = Launch(self.identity, without_env, self.env, 2048)
            self.process = start(launch, self.clock)
            timing = asyncio.ensure_future(self._at_timeout())
            try:
                self.exit = await self._until_exit()
            finally:
                await end_tasks(timing)
            await self.clock.sleep(times.finish)
        self.completed_at = self.clock.now()

    def shown(self) -> dict[str, Any]:
        """Return what the API shows. Counts of zero are left out, as JSON of protocol buffers leaves them."""
        made: dict[str, Any] = {
            "name": self.name,
            "uid": f"00000000-0000-0000-0000-{self.number:012d}",
            "generation": "1",
            "job": self.job.name.rpartition("/")[2],
            "createTime": moment(self.created_at),
            "taskCount": 1,
            "parallelism": 1,
            "template": {
                "containers": [
                    {
                        "image": self.job.image,
                        "command": list(self.job.command),
                        "args": self._override.get("args", []),
                        "env": self._shown_env(),
                    }
                ],
                "maxRetries": 0,
                "timeout": self.overrides.get("timeout", self.job.timeout),
            },
        }
        if self.started_at is not None:
            made["startTime"] = moment(self.started_at)
        if self.runs:
            made["runningCount"] = 1
        if self.completed_at is None:
            return made | {"reconciling": True}
        made["completionTime"] = moment(self.completed_at)
        if self.cancelled:
            made |= {
                "cancelledCount": 1,
                "conditions": [_failed("CANCELLED", "The execution was cancelled.")],
            }
        elif self.failure is not None:
            made |= {"failedCount": 1, "conditions": [self.failure]}
        elif self.exit == Exit(0):
            made["succeededCount"] = 1
            made["conditions"] = [{"type": "Completed", "state": "CONDITION_SUCCEEDED"}]
        else:
            words = f"Task {self.name.rpartition('/')[2]}-task0 failed: the container exited with an error."
            made |= {"failedCount": 1, "conditions": [_failed("NON_ZERO_EXIT_CODE", words)]}
        return made

    def task(self) -> dict[str, Any]:
        """Return its one task as the API shows it."""
        made: dict[str, Any] = {
            "name": f"{self.name}/tasks/{self.name.rpartition('/')[2]}-task0",
            "execution": self.name.rpartition("/")[2],
            "job": self.job.name.rpartition("/")[2],
        }
        if self.exit is not None:
            made["lastAttemptResult"] = {"status": {}}
            if self.exit.code:
                made["lastAttemptResult"] = {
                    "exitCode": self.exit.code,
                    "status": {"code": 2, "message": "The container exited with an error."},
                }
        return made

    @property
    def _override(self) -> dict[str, Any]:
        return (self.overrides.get("containerOverrides") or [{}])[0]

    def _shown_env(self) -> list[dict[str, Any]]:
        given = {one["name"] for one in self._override.get("env", [])}
        secrets = [
            {"name": name, "valueSource": {"secretKeyRef": {"secret": name.lower(), "version": "1"}}}
            for name, _ in self.job.env
            if name not in given
        ]
        return [*secrets, *self._override.get("env", [])]

    async def _at_timeout(self) -> None:
        await self.clock.sleep(float(self.overrides.get("timeout", self.job.timeout).removesuffix("s")))
        self._ending.set()

    async def _until_exit(self) -> Exit:
        assert self.process is not None
        ended = asyncio.ensure_future(self.process.wait())
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({ended, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                self.process.send(signal.SIGTERM)
                killing = asyncio.ensure_future(self.clock.sleep(GRACE_SECONDS))
                await asyncio.wait({ended, killing}, return_when=asyncio.FIRST_COMPLETED)
                killing.cancel()
                if not ended.done():
                    self.process.send(signal.SIGKILL)
            return await ended
        finally:
            await end_tasks(ended, ending)

    async def _pause(self, seconds: float) -> bool:
        """Wait; True if it was cancelled meanwhile."""
        sleeping = asyncio.ensure_future(self.clock.sleep(seconds))
        ending = asyncio.ensure_future(self._ending.wait())
        await asyncio.wait({sleeping, ending}, return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(sleeping, ending)
        return self._ending.is_set()


def _failed(reason: str, message: str) -> dict[str, Any]:
    return {"type": "Completed", "state": "CONDITION_FAILED", "message": message, "executionReason": reason}
