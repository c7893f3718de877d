"""A fake of Cloud Run jobs: one project and region, its jobs and their executions."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from typing import Any

from dispatcher.clock import Clock
from tests.fly.processes import Scripted, Start
from tests.fly.wire import Call
from tests.gcp import faults
from tests.gcp.executions import TYPE, Execution, Job, Times
from tests.gcp.faults import Refusal
from tests.gcp.server import Handler, Server

PROJECT, REGION = "my-project", "europe-west4"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
KEPT = 1000
"""Ended executions that a job keeps: "Cloud Run quotas"."""

NO_IMAGE = {
    "type": "Completed",
    "state": "CONDITION_FAILED",
    "reason": "CONTAINER_MISSING",
    "message": "Image 'europe-west4-docker.pkg.dev/my-project/bots/echo' not found.",
}
NO_ROOM = {
    "type": "Completed",
    "state": "CONDITION_FAILED",
    "message": "Task could not be scheduled: the region has no capacity for it now.",
}


class FakeRun(Server):
    """One project and region.

    Attributes:
        jobs: Name → job.
        failures: Conditions with which the next executions fail before their containers run.
        lag_seconds: How long a new execution is neither shown nor listed.
        most_running: Quota of running executions.
        mixed_up: Identity of an execution that is asked for → of the one that is shown.
        filters: Not read: the API has no filter.
    """

    file = "run.v2.json"
    over_rate = faults.RUN_RATE_LIMITED
    filters = True

    def __init__(
        self, clock: Clock | None = None, *, start: Start = Scripted, times: Times | None = None
    ) -> None:
        super().__init__(clock)
        self.start = start
        self.times = times or Times()
        self.jobs = {f"{PARENT}/jobs/echo": Job(f"{PARENT}/jobs/echo")}
        self.failures: deque[dict[str, Any]] = deque()
        self.lag_seconds = 0.0
        self.most_running = KEPT
        self.mixed_up: dict[str, str] = {}
        self.executions: list[Execution] = []
        self._numbers = itertools.count(1)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        return {
            "run.projects.locations.jobs.run": self._run,
            "run.projects.locations.jobs.executions.get": lambda call: self._shown(call).shown(),
            "run.projects.locations.jobs.executions.list": self._list,
            "run.projects.locations.jobs.executions.cancel": self._cancel,
            "run.projects.locations.jobs.executions.delete": self._delete,
            "run.projects.locations.jobs.executions.tasks.list": self._tasks_of,
        }

    def living(self) -> list[Execution]:
        """The executions that are not complete."""
        return [one for one in self.executions if one.completed_at is None]

    def running(self) -> list[str]:
        """The identities of executions whose container runs."""
        return [one.identity for one in self.executions if one.runs]

    def _run(self, call: Call) -> dict[str, Any]:
        name = call.params["name"]
        if (job := self.jobs.get(name)) is None:
            raise Refusal(404, f"Resource 'echo' of kind 'JOB' in {name} does not exist.", rpc="NOT_FOUND")
        overrides = (call.body or {}).get("overrides") or {}
        if float(overrides.get("timeout", "1s").removesuffix("s")) > 168 * 3600:
            raise Refusal(400, "timeout must be at most 604800s.", rpc="INVALID_ARGUMENT")
        if len(self.living()) >= self.most_running:
            assert faults.RUN_QUOTA.answer is not None
            refused = Refusal(429, "")
            refused.answer = faults.RUN_QUOTA.answer
            raise refused
        number = next(self._numbers)
        execution = Execution(
            f"{name}/executions/{name.rpartition('/')[2]}-{number:05d}",
            number,
            job,
            overrides,
            self.clock,
            self.clock.now(),
            self.failures.popleft() if self.failures else None,
        )
        self.executions.append(execution)
        self.task(execution.live(self.start, self.times))
        metadata = {"@type": TYPE, **execution.shown()}
        return {"name": f"{PARENT}/operations/{number:08d}", "metadata": metadata}

    def _list(self, call: Call) -> dict[str, Any]:
        parent = call.params["parent"]
        every = parent == f"{PARENT}/jobs/-"
        found = [one for one in self.executions if (every or one.job.name == parent) and not one.deleted]
        ended = [one for one in found if one.completed_at is not None]
        found = [one for one in found if one not in ended[:-KEPT] and not self._is_new(one)]
        # The latest first.
        found.reverse()
        first = int(call.query.get("pageToken", ["0"])[0])
        most = min(int(call.query.get("pageSize", ["100"])[0]), 100)
        made: dict[str, Any] = {}
        if page := [one.shown() for one in found[first : first + most]]:
            made["executions"] = page
        return made | ({"nextPageToken": str(first + most)} if first + most < len(found) else {})

    def _cancel(self, call: Call) -> dict[str, Any]:
        execution = self._of(call.params["name"])
        if execution.completed_at is not None:
            raise Refusal(400, "The execution is already complete.", rpc="FAILED_PRECONDITION")
        execution.cancel()
        return {
            "name": f"{PARENT}/operations/{next(self._numbers):08d}",
            "metadata": {"@type": TYPE, **execution.shown()},
        }

    def _delete(self, call: Call) -> dict[str, Any]:
        execution = self._of(call.params["name"])
        execution.deleted = True
        if execution.completed_at is None:
            execution.cancel()
        return {
            "name": f"{PARENT}/operations/{next(self._numbers):08d}",
            "metadata": {"@type": TYPE, **execution.shown()},
        }

    def _tasks_of(self, call: Call) -> dict[str, Any]:
        return {"tasks": [self._of(call.params["parent"]).task()]}

    def _shown(self, call: Call) -> Execution:
        execution = self._of(call.params["name"])
        if self._is_new(execution):
            raise Refusal(404, "Resource of kind 'EXECUTION' does not exist.", rpc="NOT_FOUND")
        if (instead := self.mixed_up.get(execution.identity)) is not None:
            return next(one for one in reversed(self.executions) if one.identity == instead)
        return execution

    def _of(self, name: str) -> Execution:
        for execution in self.executions:
            if execution.name == name and not execution.deleted:
                return execution
        raise Refusal(404, f"Resource '{name}' of kind 'EXECUTION' does not exist.", rpc="NOT_FOUND")

    def _is_new(self, execution: Execution) -> bool:
        return self.clock.now() < execution.created_at + self.lag_seconds
