"""Starting and ending asyncio tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from dispatcher.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")


def loop(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a loop that runs until it is cancelled, and log its error at once if it fails before.

    Nobody awaits a loop before the dispatcher exits: until then its error would be seen nowhere.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_failed)
    return task


def _failed(task: asyncio.Task[None]) -> None:
    # One that is being cancelled is `end_tasks`'s to report.
    if not task.cancelled() and not task.cancelling() and (error := task.exception()) is not None:
        log.critical("a background loop failed, and does not run any more", exc_info=error)


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their ends. Log the error of a task that fails while it is cancelled."""
    if not tasks:
        return
    cancelled = [task for task in tasks if task.cancel()]
    await asyncio.wait(tasks)
    for task in cancelled:
        # The result of a task that was done before is its owner's to read.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task failed while it was cancelled", exc_info=error)


async def rest(clock: Clock, seconds: float, until: asyncio.Event) -> None:
    """Return after so many seconds, or as soon as the event is set."""
    timer, event = asyncio.create_task(clock.sleep(seconds)), asyncio.create_task(until.wait())
    try:
        await asyncio.wait((timer, event), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(timer, event)


async def within(clock: Clock, seconds: float, work: Awaitable[T], late: Exception) -> T:
    """Return the result of `work`; after so many seconds cancel it and raise `late`."""
    task = asyncio.ensure_future(work)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise late
    finally:
        task.cancel()
        timer.cancel()
        await asyncio.gather(task, timer, return_exceptions=True)


class Background:
    """Background tasks that nobody awaits, kept until they are done. Errors are logged; the reaper
    retries."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # In order: iteration over a set would depend on memory addresses.
        self._tasks: dict[asyncio.Task[None], None] = {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    async def settle(self) -> None:
        """Wait for all running tasks, and for those that they start."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    async def close(self, seconds: float) -> None:
        """Wait that long for all tasks, then cancel the rest."""
        settled, timer = asyncio.create_task(self.settle()), asyncio.create_task(self._clock.sleep(seconds))
        await asyncio.wait((settled, timer), return_when=asyncio.FIRST_COMPLETED)
        await end_tasks(settled, timer)
        if left := list(self._tasks):
            log.warning("%d tasks did not finish within %g s and are left to others", len(left), seconds)
            await end_tasks(*left)

    def _finished(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", exc_info=error)
