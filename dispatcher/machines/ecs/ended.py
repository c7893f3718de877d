"""Tasks that have ended within the last hour: which machine each one was.

ECS lists them a hundred in a call, and shows whose they are in another call. A search takes longer than its
caller may wait once there are some thousands, so it goes on without the caller; what it has learned is not
asked about again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from contextlib import aclosing

from dispatcher.clock import Clock
from dispatcher.machines.ecs.client import EcsApi
from dispatcher.machines.ecs.request import Place
from dispatcher.machines.provider import ProviderError
from dispatcher.tasks import end_tasks

REMEMBERED = 50_000
"""Ended tasks that are remembered, some 20 MB: those of an hour with 14 ends a second. Those beyond it are
asked about in every search."""

PATIENCE = 120.0
"""Seconds for which a machine's question counts from its first time. A search of 70,000 tasks takes a minute,
and a caller asks again after ten seconds."""

QUESTIONS = 10_000
"""Machines whose first question is remembered."""


class EndedTasks:
    """Searches for ended tasks, one search at a time for all who wait."""

    def __init__(self, api: EcsApi, place: Place, clock: Clock) -> None:
        self._api = api
        self._place = place
        self._clock = clock
        self._machines: OrderedDict[str, str] = OrderedDict()
        """ARN → its machine; empty for a task that is not this deployment's."""
        self._arns: defaultdict[str, list[str]] = defaultdict(list)
        """Machine → its tasks' ARNs."""
        self._asked: OrderedDict[str, float] = OrderedDict()
        """Machine → when it was first asked for without an answer."""
        self._search: asyncio.Task[None] | None = None
        self._began_at = float("-inf")
        """When the search that is under way began, or else the last."""
        self._complete_as_of = float("-inf")
        """When the last search that came to its end began."""

    async def close(self) -> None:
        if self._search is not None:
            await end_tasks(self._search)

    def arns(self, machine_id: str) -> list[str]:
        """Return the machine's ended tasks that are known."""
        return list(self._arns.get(machine_id, ()))

    async def learn(self, machine_id: str) -> None:
        """Return once every task is known that had ended when the machine was first asked for."""
        asked = self._first_asked(machine_id)
        while self._complete_as_of < asked:
            search = self._under_way()
            began_at = self._began_at
            try:
                await asyncio.shield(search)
            except ProviderError:
                # One that began before tells nothing of what this caller asked for.
                if began_at >= asked:
                    raise
        self._asked.pop(machine_id, None)

    def _first_asked(self, machine_id: str) -> float:
        now = self._clock.monotonic()
        if now - self._asked.get(machine_id, now) > PATIENCE:
            del self._asked[machine_id]
        asked = self._asked.setdefault(machine_id, now)
        if len(self._asked) > QUESTIONS:
            self._asked.popitem(last=False)
        return asked

    def _under_way(self) -> asyncio.Task[None]:
        """Return the search that is under way, or begin one."""
        if self._search is None or self._search.done():
            self._began_at = self._clock.monotonic()
            self._search = asyncio.create_task(self._learn_all())
            # All who waited may have gone.
            self._search.add_done_callback(lambda search: search.cancelled() or search.exception())
        return self._search

    async def _learn_all(self) -> None:
        began_at, listed = self._began_at, set[str]()
        async with aclosing(self._api.pages(desiredStatus="STOPPED")) as pages:
            async for arns in pages:
                listed.update(arns)
                if new := [arn for arn in arns if arn not in self._machines]:
                    for arn, task in (await self._api.describe_all(new)).items():
                        self._remember(arn, self._place.machine_id(task.get("startedBy", "")))
        for arn in self._machines.keys() - listed:
            self._forget(arn)
        self._complete_as_of = began_at

    def _remember(self, arn: str, machine_id: str) -> None:
        if arn in self._machines:
            return
        self._machines[arn] = machine_id
        if machine_id:
            self._arns[machine_id].append(arn)
        if len(self._machines) > REMEMBERED:
            self._forget(next(iter(self._machines)))

    def _forget(self, arn: str) -> None:
        machine_id = self._machines.pop(arn)
        if machine_id:
            self._arns[machine_id].remove(arn)
            if not self._arns[machine_id]:
                del self._arns[machine_id]
