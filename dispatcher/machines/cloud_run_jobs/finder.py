"""Look-ups of machines at Cloud Run: which executions are which machine's.

Cloud Run lists a job's executions without a filter, so a machine that is not remembered is searched for in a
list of all. One list serves all who asked before it began.

A job may have left the settings while executions of it run, or another replica may still have it. So a
machine is absent only if the list of the region's jobs lacks it too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing

from dispatcher.clock import Clock
from dispatcher.machines.cloud_run_jobs.client import RunApi
from dispatcher.machines.cloud_run_jobs.request import Place
from dispatcher.machines.cloud_run_jobs.status import Execution, machine_id_of
from dispatcher.machines.provider import ProviderError, Unreachable
from dispatcher.tasks import end_tasks

log = logging.getLogger(__name__)

REMEMBERED = 20_000
"""Limit on the machines whose executions are remembered. Others are searched for."""

MOST_JOBS = 1000
"""Limit on the known jobs that are not in the settings; a region has no more ("Cloud Run quotas")."""

Machines = Mapping[str, Sequence[Execution]]
"""Machine → its executions."""


class Finder:
    """Finds machines, first by the names of their executions and then in lists.

    Args:
        settling: Seconds in which Cloud Run may not show an execution yet that it has begun.
    """

    def __init__(self, api: RunApi, place: Place, clock: Clock, settling: float) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._settling = settling
        self._given: OrderedDict[str, tuple[float, Execution]] = OrderedDict()
        """Machine → monotonic time at which an execution was begun here, and the execution."""
        self._known: OrderedDict[str, dict[str, None]] = OrderedDict()
        """Machine → names of its executions."""
        self._listing: dict[str, asyncio.Task[Machines]] = {}
        """Job → its list that is under way."""
        self._next: dict[str, asyncio.Task[Machines]] = {}
        """Job → its list that begins when that one ends."""
        self._others: OrderedDict[str, None] = OrderedDict()
        """Jobs with executions of this deployment that are not in the settings."""
        self._swept = False
        """True once the region's jobs were listed."""

    async def close(self) -> None:
        if tasks := [*self._listing.values(), *self._next.values()]:
            await end_tasks(*tasks)

    def remember(self, machine_id: str, execution: Execution) -> Execution:
        """Remember a machine's execution, and return it.

        Raises:
            Unreachable: It is another machine's, so nothing is known of this one.
        """
        if machine_id_of(execution, self._place) != machine_id:
            raise Unreachable(
                f"Cloud Run showed {execution.get('name')}, which is not an execution of machine {machine_id}"
            )
        self._known.setdefault(machine_id, {})[execution["name"]] = None
        self._known.move_to_end(machine_id)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return execution

    def given(self, machine_id: str, execution: Execution) -> Execution:
        """Remember an execution that Cloud Run has begun, and may not show yet; return it."""
        self.remember(machine_id, execution)
        self._given[machine_id] = (self._clock.monotonic(), execution)
        if len(self._given) > REMEMBERED:
            self._given.popitem(last=False)
        return execution

    async def look(self, machine_id: str) -> list[Execution]:
        """Return the machine's executions: those that are remembered, else those in the lists, else the one
        that was begun so lately that neither shows it, else those of other jobs of the region.

        Raises:
            ProviderError: None was found, and a job could not be asked.
        """
        if found := await self.begun(machine_id):
            return found
        return list((await self._listed(self._place.any_job)).get(machine_id, ()))

    async def begun(self, machine_id: str) -> list[Execution]:
        """Return the executions that a create of the machine has begun: as `look`, without the jobs that no
        create knows.

        Raises:
            ProviderError: None was found, and a job could not be asked.
        """
        if found := await self._remembered(machine_id) or await self.search(machine_id):
            return found
        at, execution = self._given.get(machine_id, (float("-inf"), {}))
        return [execution] if self._clock.monotonic() < at + self._settling else []

    async def search(self, machine_id: str) -> list[Execution]:
        """Return the machine's executions in the lists of all known jobs."""
        machines, failed = await self._in_lists(self._jobs)
        found = list(machines.get(machine_id, ()))
        if failed is not None and not found:
            raise failed
        return found

    async def machines(self) -> tuple[Machines, ProviderError | None]:
        """Return the deployment's machines in the lists of all jobs, and the error of a job that could not be
        asked."""
        if self._swept:
            return await self._in_lists(self._jobs)
        return await self._in_lists([*self._jobs, self._place.any_job])

    @property
    def _jobs(self) -> list[str]:
        return list(dict.fromkeys([*self._place.every_job, *self._others]))

    async def _in_lists(self, jobs: Iterable[str]) -> tuple[Machines, ProviderError | None]:
        every: dict[str, dict[str, Execution]] = {}
        failed: ProviderError | None = None
        for answer in await asyncio.gather(*map(self._listed, jobs), return_exceptions=True):
            if isinstance(answer, ProviderError):
                failed = failed or answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                for machine_id, executions in answer.items():
                    every.setdefault(machine_id, {}).update({one["name"]: one for one in executions})
        return {machine_id: list(executions.values()) for machine_id, executions in every.items()}, failed

    async def _remembered(self, machine_id: str) -> list[Execution]:
        names = list(self._known.get(machine_id, ()))
        shown = [await self._api.show(name) for name in names]
        return [self.remember(machine_id, one) for one in shown if one is not None]

    async def _listed(self, job: str) -> Machines:
        """Return a job's machines, from a list that begins after this call."""
        if (under_way := self._listing.get(job)) is None or under_way.done():
            task = self._listing[job] = asyncio.create_task(self._list(job))
        elif (task := self._next.get(job)) is None or task.done():
            task = self._next[job] = asyncio.create_task(self._after(job, under_way))
        task.add_done_callback(_retrieved)
        # It goes on for others, and takes longer than one of them may have.
        return await asyncio.shield(task)

    async def _after(self, job: str, under_way: asyncio.Task[Machines]) -> Machines:
        await asyncio.wait((under_way,))
        self._listing[job] = self._next.pop(job)
        return await self._list(job)

    async def _list(self, job: str) -> Machines:
        found: dict[str, list[Execution]] = {}
        async with aclosing(self._api.pages(job)) as pages:
            async for page in pages:
                for execution in page:
                    if machine_id := machine_id_of(execution, self._place):
                        found.setdefault(machine_id, []).append(execution)
        self._remember_all(found.items())
        self._swept = self._swept or job == self._place.any_job
        return found

    def _remember_all(self, found: Iterable[tuple[str, Sequence[Execution]]]) -> None:
        for machine_id, executions in found:
            for execution in executions:
                self.remember(machine_id, execution)
                job = execution["name"].partition("/executions/")[0]
                if job not in self._place.every_job:
                    self._others[job] = None
                    self._others.move_to_end(job)
                    if len(self._others) > MOST_JOBS:
                        self._others.popitem(last=False)


def _retrieved(task: asyncio.Task[Machines]) -> None:
    """Mark the task's exception as retrieved: those who waited may have gone."""
    if not task.cancelled():
        task.exception()
