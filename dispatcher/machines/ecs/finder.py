"""Look-ups of machines at ECS: which task is which machine's.

A task is known by its `startedBy`, which is compared in each answer: a filter that the server ignores must
not make another's task ours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from dispatcher.clock import Clock
from dispatcher.domain.model import MachineState
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.ended import EndedTasks
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.ecs.status import could_not_start, latest, state_of
from dispatcher.machines.provider import Unreachable

if TYPE_CHECKING:
    from types_aiobotocore_ecs.type_defs import TaskTypeDef

REMEMBERED = 20_000
"""Machines whose tasks are remembered from when they were given or listed. Others are searched for."""


class Finder:
    """Finds machines' tasks, by what is remembered and else by `startedBy`.

    Args:
        settling: Seconds in which ECS may not know a task yet that RunTask gave.
    """

    def __init__(self, api: EcsApi, place: Place, clock: Clock, settling: float) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._settling = settling
        self._known: OrderedDict[str, dict[str, float]] = OrderedDict()
        """Machine → its tasks' ARNs, each with the monotonic time at which it was learned of."""
        self._ended = EndedTasks(api, place, clock)

    async def close(self) -> None:
        await self._ended.close()

    def learned(self, machine_id: str, task: TaskTypeDef) -> TaskTypeDef:
        """Remember a machine's task, and give it back.

        Raises:
            Unreachable: It is another machine's.
        """
        self._check(machine_id, task)
        arns = self._known.setdefault(machine_id, {})
        arns.setdefault(task.get("taskArn", ""), self._clock.monotonic())
        self._known.move_to_end(machine_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return task

    async def describe(self, arn: str, machine_id: str) -> TaskTypeDef | None:
        """Return one task of a machine; None if ECS does not know it.

        Raises:
            Unreachable: ECS shows another machine's task.
        """
        task = await self._api.describe(arn)
        return None if task is None else self._check(machine_id, task)

    async def look(self, machine_id: str) -> tuple[TaskTypeDef | None, bool]:
        """Return the machine's task, if there is one, and True if one was given so lately that ECS may not
        know it yet."""
        tasks = await self._tasks(machine_id)
        task, new = latest(tasks.values()), self._new(machine_id) - tasks.keys()
        if task is not None and new and could_not_start(task):
            return None, True
        return task, bool(new)

    async def living(self, machine_id: str) -> dict[str, bool]:
        """Return the ARNs of the machine's tasks that are not over, each with True if ECS shows it, and False
        if it was given so lately that ECS may not know it yet."""
        tasks = await self._tasks(machine_id)
        shown = {arn: True for arn, task in tasks.items() if state_of(task) is not MachineState.gone}
        return shown | dict.fromkeys(self._new(machine_id) - tasks.keys(), False)

    async def _tasks(self, machine_id: str) -> dict[str, TaskTypeDef]:
        """Return ARN → the machine's task, ended ones too for an hour.

        Raises:
            Unreachable: The answer has other machines' tasks alone, and not because the filter was ignored.
        """
        found = await self._remembered(machine_id)
        if _is_whole(found):
            return found
        owner = self._place.owner(machine_id)
        others: set[str] = set()
        # ECS takes no other filter beside this one, and lists what is wanted to run.
        async with aclosing(self._listed(startedBy=owner)) as tasks:
            async for task in tasks:
                arn = task.get("taskArn", "")
                if task.get("startedBy") == owner:
                    found[arn] = self.learned(machine_id, task)
                else:
                    others.add(arn)
        if _is_whole(found):
            return found
        await self._ended.learn(machine_id)
        found |= await self._remembered(machine_id)
        if not _is_whole(found) and others and others != await self._running():
            raise Unreachable(f"ECS listed other tasks when asked for those started by {owner}")
        return found

    async def _remembered(self, machine_id: str) -> dict[str, TaskTypeDef]:
        """Return those of the machine's tasks that are remembered, as they are now."""
        arns = dict.fromkeys([*self._known.get(machine_id, ()), *self._ended.arns(machine_id)])
        described = {arn: await self.describe(arn, machine_id) for arn in arns}
        return {arn: task for arn, task in described.items() if task is not None}

    def _new(self, machine_id: str) -> set[str]:
        """Return the ARNs that were learned of so lately that ECS may not know them yet."""
        since = self._clock.monotonic() - self._settling
        return {arn for arn, at in self._known.get(machine_id, {}).items() if at > since}

    async def _running(self) -> set[str]:
        """Return the ARNs of the whole cluster's tasks: a server that ignores a filter lists all of them, and
        so proves the absence of any other."""
        return {arn async for page in self._api.pages(desiredStatus="RUNNING") for arn in page}

    async def machines(self) -> AsyncGenerator[tuple[str, TaskTypeDef], None]:
        """The deployment's tasks that are wanted to run, with their machines."""
        async with aclosing(self._listed(desiredStatus="RUNNING")) as tasks:
            async for task in tasks:
                if machine_id := self._place.machine_id(task.get("startedBy", "")):
                    yield machine_id, self.learned(machine_id, task)

    async def _listed(self, **filters: str) -> AsyncGenerator[TaskTypeDef, None]:
        async with aclosing(self._api.pages(**filters)) as pages:
            async for arns in pages:
                if arns:
                    for task in (await self._api.describe_all(arns)).values():
                        yield task

    def _check(self, machine_id: str, task: TaskTypeDef) -> TaskTypeDef:
        """Return the task.

        Raises:
            Unreachable: It is another machine's. Nothing is known of the one that was asked for.
        """
        owner = self._place.owner(machine_id)
        if task.get("startedBy") != owner:
            raise Unreachable(
                f"ECS answered with task {task.get('taskArn')} of {task.get('startedBy')!r} when asked for "
                f"{owner}"
            )
        return task


def _is_whole(tasks: Mapping[str, TaskTypeDef]) -> bool:
    """Return True if a machine has no other task: it gets a second one only if its first could not start."""
    newest = latest(tasks.values())
    return newest is not None and (len(tasks) > 1 or not could_not_start(newest))
