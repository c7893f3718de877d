"""The `ecs` provider: a machine is a Fargate task, which ends when its bot is done.

A task's `startedBy` is `<deployment>/<machine id>`, by which it is found, and its `clientToken` follows from
that: a second create is given the first one's task. ECS keeps no deadline. Three others do: the bot itself;
`timeout`, which is the machine's first program; and the reaper, while there is a dispatcher.

A create waits for its task to run, which takes half a minute and more. A task that could not be started is
followed by a second one, in another subnet where there is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING

from dispatcher.clock import Clock, SystemClock
from dispatcher.domain.model import MachineState, MachineStatus
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.finder import Finder
from dispatcher.machines.ecs.placing import RUN_RATE, Placing
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.ecs.status import could_not_start, reason_of, state_of, status_of, subnet_of
from dispatcher.machines.ecs.stopped import not_started
from dispatcher.machines.provider import (
    Action,
    LogPart,
    MachineSpec,
    Preparation,
    ProviderError,
    Rejected,
    Unreachable,
)
from dispatcher.rate_limit import Rate
from dispatcher.tasks import end_tasks

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import TaskTypeDef

log = logging.getLogger(__name__)

STOP_RATE = Rate(20, burst=20)
"""Together with `RUN_RATE` within the bucket that RunTask and StopTask share."""

CREATE_SECONDS = 180.0
"""Limit on a create's wait for its task to run. "30 to 45 seconds or longer" is usual; large images take
longer. A session's own deadline mostly comes first."""

SETTLING = timedelta(seconds=30)
"""ECS is eventually consistent, and says nothing of how long: a task that RunTask gave may be MISSING for a
while."""

POLLS = (1.0, 1.0, 1.5, 2.0, 3.0)
"""Seconds between two looks at a task that starts; the last goes on."""

REMEMBERED_STOPS = 10_000
"""Machines that were told to stop, of which no second task is asked for."""


class EcsProvider:
    """Machines at ECS."""

    name = "ecs"
    settling = SETTLING
    create_seconds = CREATE_SECONDS

    def __init__(self, api: EcsApi, place: Place, clock: Clock | None = None) -> None:
        self._api = api
        self._place = place
        self._clock = clock or SystemClock()
        self._finder = Finder(api, place, self._clock, SETTLING.total_seconds())
        self._placing = Placing(api, place, self._clock, self._finder)
        self._stopped: OrderedDict[str, None] = OrderedDict()
        self._learning: asyncio.Task[None] | None = None

    @property
    def rates(self) -> Mapping[Action, Rate]:
        """Creates and stops. Reads go together in batches, and keep their own count."""
        return {"create": RUN_RATE, "stop": STOP_RATE}

    async def prepare(self, preparations: Iterable[Preparation]) -> None:
        """Learn which machines there are, and with that whether the credentials are good for the cluster."""
        self._learning = asyncio.create_task(self._learn())

    async def close(self) -> None:
        if self._learning is not None:
            await end_tasks(self._learning)
        await self._finder.close()
        await self._api.close()

    async def create(self, spec: MachineSpec) -> MachineStatus:
        until = min(spec.answer_by, self._clock.now() + CREATE_SECONDS)
        task = await self._begun(spec, await self._placing.task(spec, 0, until), until)
        if could_not_start(task) and spec.id not in self._stopped:
            log.warning("machine %s: %s: %s", spec.id, task.get("taskArn"), reason_of(task))
            second = await self._placing.task(spec, 1, until, without=subnet_of(task))
            task = await self._begun(spec, second, until)
        if could_not_start(task):
            raise not_started(reason_of(task, self._place.container))
        return status_of(spec.id, task, self._place.container)

    async def get(self, machine_id: str) -> MachineStatus | None:
        task, is_settling = await self._finder.look(machine_id)
        if task is not None:
            return status_of(machine_id, task, self._place.container)
        return MachineStatus(machine_id, MachineState.requested) if is_settling else None

    async def list(self) -> AsyncIterator[MachineStatus]:
        """Every machine that is wanted to run. One that is stopping is known to `get`: ECS lists it with all
        that ended in the last hour."""
        async with aclosing(self._finder.machines()) as machines:
            async for machine_id, task in machines:
                if (state := state_of(task)) is not MachineState.gone:
                    yield MachineStatus(machine_id, state)

    async def stop(self, machine_id: str, grace: timedelta) -> None:
        """Stop the machine's tasks. ECS kills what has not ended after the container's `stopTimeout`."""
        self._stopped[machine_id] = None
        if len(self._stopped) > REMEMBERED_STOPS:
            self._stopped.popitem(last=False)
        for arn, is_shown in (await self._finder.living(machine_id)).items():
            found = await self._api.stop_task(arn, "switchboard: the session is over")
            if not found and not is_shown:
                raise Unreachable(f"ECS gave the task {arn}, and does not know it yet")

    async def read_log(
        self, machine_id: str, lines: int, after: int | None = None, *, ended: bool = False
    ) -> LogPart | None:
        """Say where the log is: the ECS API has none."""
        task, _ = await self._finder.look(machine_id)
        group = self._place.log_group or "the log group of its task definition"
        if task is None:
            raise Rejected(f"ECS no longer knows the task; CloudWatch has its lines in {group}")
        number = task.get("taskArn", "").rpartition("/")[2]
        raise Rejected(
            f"CloudWatch keeps it, read it with `aws logs tail {group} --log-stream-name-prefix "
            f"{self._place.container}/{self._place.container}/{number}`"
        )

    async def _begun(self, spec: MachineSpec, task: TaskTypeDef, until: float) -> TaskTypeDef:
        """Return the task once it runs or is over, or as it is at `until` (Unix seconds)."""
        arn, began = task.get("taskArn", ""), self._clock.monotonic()
        looks = 0
        while state_of(task) is MachineState.requested:
            pause = POLLS[min(looks, len(POLLS) - 1)]
            looks += 1
            if self._clock.now() + pause >= until:
                return task
            await self._clock.sleep(pause)
            try:
                shown = await self._finder.describe(arn, spec.id)
            except ProviderError as error:
                log.debug("machine %s: its task could not be looked at: %s", spec.id, error)
                continue
            if shown is not None:
                task = shown
            elif self._clock.monotonic() >= began + SETTLING.total_seconds():
                raise Unreachable(f"ECS gave the task {arn}, and does not know it")
        return task

    async def _learn(self) -> None:
        try:
            count = len([status async for status in self.list()])
        except ProviderError as error:
            log.warning("the tasks of cluster %s could not be listed: %s", self._place.cluster, error)
        else:
            log.info("ECS: %d machines in cluster %s", count, self._place.cluster)
