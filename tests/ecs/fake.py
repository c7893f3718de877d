"""The fake's API: RunTask, StopTask, DescribeTasks and ListTasks of one account and region."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dispatcher.clock import Clock, SystemClock
from dispatcher.tasks import end_tasks
from tests.ecs.model import error_is_known, operation, problems, wire
from tests.ecs.rates import Limits
from tests.ecs.tasks import Definition, Task, Times
from tests.fly.processes import Scripted, Start
from tests.fly.wire import Answer, Call, Dropped

ACCOUNT, REGION, CLUSTER = "123456789012", "us-east-1", "bots"
SUBNETS = {"subnet-0000000a": "us-east-1a", "subnet-0000000b": "us-east-1b", "subnet-0000000c": "us-east-1c"}
GROUP = "sg-0000000a"
NO_CAPACITY = (
    "Capacity is unavailable at this time. Please try again later or in a different availability zone"
)
NO_VCPUS = "You've reached the limit on the number of vCPUs you can run concurrently"
KEPT_SECONDS = 3600.0
"""A stopped task is described for at least so long."""
STARTED_BY = re.compile(r"[A-Za-z0-9_/-]{1,128}")


class Refusal(Exception):
    """An error of the API."""

    def __init__(self, code: str, message: str, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members


@dataclass
class FakeEcs:
    """ECS with one cluster of Fargate tasks."""

    clock: Clock = field(default_factory=SystemClock)
    start: Start = Scripted
    times: Times = field(default_factory=Times)
    limits: Limits = field(default_factory=Limits)
    definitions: dict[str, Definition] = field(default_factory=lambda: {"echo:1": Definition()})
    free: dict[tuple[str, str], int] = field(default_factory=dict)
    """Kind of capacity and zone → tasks that fit there; unlimited where nothing is said."""
    cluster: str = CLUSTER
    vcpus: float = float("inf")
    """Quota of the account."""
    latency: float = 0.0
    lag_seconds: float = 0.0
    """So long a new task is neither described nor listed."""
    validates: bool = True
    """False: requests and answers are not held to the service's model, which takes some time."""
    filters: bool = True
    """False: filters of a list are ignored."""
    mixed_up: dict[str, str] = field(default_factory=dict)
    """`startedBy` of a task that is asked for → of the task that is shown."""
    not_starting: list[str] = field(default_factory=list)
    """Reasons for which the next tasks do not start, in their order."""
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    """Operation → errors of its next calls."""
    lost: Counter[str] = field(default_factory=Counter)
    """Operation → calls of it that are done and whose answers are lost."""
    tasks: dict[str, Task] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    throttled: int = 0
    """Calls that were over a published rate."""
    _tokens: dict[str, tuple[str, Task]] = field(default_factory=dict)
    """Client token → the request's other members, and its task."""
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def cluster_arn(self) -> str:
        return f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/{self.cluster}"

    def running(self) -> list[str]:
        """The `startedBy` of tasks whose program runs."""
        return [task.started_by for task in self.tasks.values() if task.runs]

    def living(self) -> list[Task]:
        return [task for task in self.tasks.values() if task.status not in ("DEPROVISIONING", "STOPPED")]

    def count(self, name: str) -> int:
        return sum(1 for called, _ in self.calls if called == name)

    async def close(self) -> None:
        """End what its tasks wait for."""
        lives = [task.life for task in self.tasks.values() if task.life is not None and not task.life.done()]
        if lives:
            await end_tasks(*lives)

    async def handle(self, call: Call) -> Answer:
        if self.latency:
            await self.clock.sleep(self.latency)
        made = operation(call.headers["x-amz-target"])
        self._check(call)
        body = call.body or {}
        self.calls.append((made.name, body))
        if self.validates:
            self.violations += [f"{made.name}: {one}" for one in problems(made.input_shape, body)]
        try:
            if scripted := self.refusals.get(made.name):
                raise scripted.pop(0)
            self._throttle(made.name)
            if body.get("cluster") not in (self.cluster, self.cluster_arn):
                raise Refusal("ClusterNotFoundException", "Cluster not found.")
            done = self._operations()[made.name](body)
        except Refusal as refusal:
            if not error_is_known(made, refusal.code):
                self.violations.append(f"the fake: {made.name} has no error {refusal.code}")
            said = {"__type": refusal.code, "message": refusal.message, **refusal.members}
            return _answer(said, refusal.status)
        if self.validates:
            self.violations += [f"the fake: {made.name}: {one}" for one in problems(made.output_shape, done)]
        if self.lost[made.name] > 0:
            self.lost[made.name] -= 1
            raise Dropped
        return _answer(wire(done))

    def interrupt_spot(self, task: Task) -> None:
        task.stop("SpotInterruption", "Your Spot Task was interrupted.")

    def _operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "RunTask": self._run_task,
            "StopTask": self._stop_task,
            "DescribeTasks": self._describe_tasks,
            "ListTasks": self._list_tasks,
        }

    def _check(self, call: Call) -> None:
        """The request is signed for this service and region, and is JSON 1.1."""
        scope = f"/{REGION}/ecs/aws4_request"
        if scope not in call.headers.get("authorization", ""):
            self.violations.append(f"not signed for {scope}: {call.headers.get('authorization', '')[:80]}")
        if call.headers.get("content-type") != "application/x-amz-json-1.1":
            self.violations.append(f"content type {call.headers.get('content-type')}")

    def _throttle(self, name: str) -> None:
        if not self.limits.take(name, self.clock.monotonic()):
            self.throttled += 1
            raise Refusal("ThrottlingException", "Rate exceeded")

    def _run_task(self, body: dict[str, Any]) -> dict[str, Any]:
        token = body["clientToken"]
        asked = json.dumps(
            {name: value for name, value in body.items() if name != "clientToken"}, sort_keys=True
        )
        if token in self._tokens:
            before, task = self._tokens[token]
            if before != asked:
                words = "The provided client token is already in use with a different RunTask request"
                raise Refusal("ConflictException", words, resourceIds=[task.arn])
            return {"tasks": [self._shown(task)], "failures": []}
        kind = self._valid(body)
        self._throttle(kind)
        definition = self.definitions[body["taskDefinition"].rpartition("/")[2]]
        used = sum(task.definition.cpu for task in self.living()) / 1024
        if used + definition.cpu / 1024 > self.vcpus:
            return {"tasks": [], "failures": [{"reason": NO_VCPUS}]}
        subnets = body["networkConfiguration"]["awsvpcConfiguration"]["subnets"]
        # Fargate picks one: here the next in turn, whether there is room or not.
        number = next(self._numbers)
        subnet = subnets[number % len(subnets)]
        zone = SUBNETS[subnet]
        if self._taken(kind, zone) >= self.free.get((kind, zone), 1 << 30):
            return {"tasks": [], "failures": [{"reason": NO_CAPACITY}]}
        name = body["taskDefinition"].rpartition("/")[2]
        task = Task(
            arn=f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/{self.cluster}/{number:032x}",
            request=body,
            definition_arn=f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/{name}",
            definition=definition,
            kind=kind,
            subnet=subnet,
            zone=zone,
            clock=self.clock,
            created_at=self.clock.now(),
            tags={one["key"]: one["value"] for one in body.get("tags", [])},
        )
        failure = self.not_starting.pop(0) if self.not_starting else ""
        task.life = asyncio.create_task(task.live(self.start, self.times, failure))
        self.tasks[task.arn] = task
        self._tokens[token] = (asked, task)
        return {"tasks": [self._shown(task)], "failures": []}

    def _valid(self, body: dict[str, Any]) -> str:
        """Return the kind of capacity that is asked for."""
        definition = self.definitions.get(body["taskDefinition"].rpartition("/")[2])
        if definition is None:
            raise Refusal("ClientException", "TaskDefinition not found.")
        if "launchType" in body and "capacityProviderStrategy" in body:
            raise Refusal(
                "InvalidParameterException", "Specify either a launch type or a capacity provider strategy."
            )
        if not STARTED_BY.fullmatch(body.get("startedBy", "")):
            raise Refusal("InvalidParameterException", "startedBy is not valid.")
        if not 1 <= len(body["clientToken"]) <= 64:
            raise Refusal("InvalidParameterException", "Client token is not valid.")
        if len(json.dumps(body.get("overrides", {}))) > 8192:
            raise Refusal("InvalidParameterException", "Overrides are longer than 8192 characters.")
        for one in body.get("overrides", {}).get("containerOverrides", []):
            if one["name"] != definition.container:
                raise Refusal(
                    "InvalidParameterException", "Override for container named that is not a container."
                )
        network = body.get("networkConfiguration", {}).get("awsvpcConfiguration")
        if not network or not set(network["subnets"]) <= SUBNETS.keys():
            raise Refusal("InvalidParameterException", "Network Configuration must be provided.")
        strategy = body.get("capacityProviderStrategy")
        return strategy[0]["capacityProvider"] if strategy else body["launchType"]

    def _taken(self, kind: str, zone: str) -> int:
        return sum(1 for task in self.living() if (task.kind, task.zone) == (kind, zone))

    def _stop_task(self, body: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks.get(body["task"])
        if task is None or self._expired(task):
            raise Refusal("InvalidParameterException", "The referenced task was not found.")
        task.stop("UserInitiated", body.get("reason", ""))
        return {"task": self._shown(task)}

    def _describe_tasks(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(body["tasks"]) > 100:
            raise Refusal("InvalidParameterException", "Tasks can have at most 100 items.")
        shown, failures = [], []
        for arn in body["tasks"]:
            task = self.tasks.get(arn)
            if task is not None and (instead := self.mixed_up.get(task.started_by)):
                task = self._of(instead)
            if task is None or self._expired(task) or self._is_new(task):
                failures.append({"arn": arn, "reason": "MISSING"})
            else:
                shown.append(self._shown(task))
        return {"tasks": shown, "failures": failures}

    def _list_tasks(self, body: dict[str, Any]) -> dict[str, Any]:
        if "startedBy" in body and body.keys() - {"cluster", "maxResults", "nextToken", "startedBy"}:
            raise Refusal("InvalidParameterException", "startedBy must be the only filter.")
        found = [one for one in self.tasks.values() if not self._expired(one) and not self._is_new(one)]
        if (instead := self.mixed_up.get(body.get("startedBy", ""))) is not None:
            found = [one for one in found if one.started_by == instead]
        elif self.filters:
            found = [one for one in found if one.desired == body.get("desiredStatus", "RUNNING")]
            if "startedBy" in body:
                found = [one for one in found if one.started_by == body["startedBy"]]
        first, most = int(body.get("nextToken", 0)), body.get("maxResults", 100)
        page = {"taskArns": [one.arn for one in found[first : first + most]]}
        return page | ({"nextToken": str(first + most)} if first + most < len(found) else {})

    def _of(self, started_by: str) -> Task | None:
        return next((one for one in reversed(self.tasks.values()) if one.started_by == started_by), None)

    def _expired(self, task: Task) -> bool:
        stopped = task.stamps.get("stoppedAt")
        return stopped is not None and self.clock.now() >= stopped + KEPT_SECONDS

    def _is_new(self, task: Task) -> bool:
        return self.clock.now() < task.created_at + self.lag_seconds

    def _shown(self, task: Task) -> dict[str, Any]:
        return task.shown(self.cluster_arn)


def _answer(body: Any, status: int = 200) -> Answer:
    return Answer(status, body, {"content-type": "application/x-amz-json-1.1"})
