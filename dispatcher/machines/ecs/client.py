"""Calls of the ECS API that the provider makes.

Reads share one bucket of the account: "Cluster resource read actions" of the ECS API reference, "Request
throttling". DescribeTasks takes up to 100 tasks, so questions that come while another one is under way go
together in the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from dispatcher.clock import Clock
from dispatcher.machines.ecs.connection import Connection
from dispatcher.machines.ecs.errors import of_failure
from dispatcher.machines.provider import ProviderError, Rejected, Throttled, Unreachable
from dispatcher.rate_limit import Rate, TokenBucket
from dispatcher.tasks import end_tasks

if TYPE_CHECKING:
    from types_aiobotocore_ecs import ECSClient
    from types_aiobotocore_ecs.type_defs import RunTaskRequestTypeDef, TaskTypeDef

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_RATE = Rate(20, burst=100)
"""Rate of DescribeTasks, ListTasks and a few others together, in an account and region."""

READ_PATIENCE = 6.0
"""Limit on a read's wait for its turn, in seconds."""

BATCH = 100
"""The most tasks of one DescribeTasks, and of one page of ListTasks."""

READERS = 4
"""DescribeTasks calls at the same time."""


class EcsApi:
    """Calls about the tasks of one cluster. Every method raises `ProviderError`."""

    def __init__(self, connection: Connection, cluster: str, clock: Clock) -> None:
        self._connection = connection
        self._cluster = cluster
        self._clock = clock
        self._reads = TokenBucket(READ_RATE)
        self._asked: dict[str, asyncio.Future[TaskTypeDef | None]] = {}
        """Task that the next DescribeTasks asks about → its answer."""
        self._readers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        if self._readers:
            await end_tasks(*self._readers)
        await self._connection.close()

    async def run_task(self, request: RunTaskRequestTypeDef) -> TaskTypeDef:
        """Ask for one task.

        Raises:
            TokenTaken: Another task has the request's client token.
        """
        answer = await self._connection.call(lambda client: client.run_task(**request))
        if answer.get("tasks"):
            return answer["tasks"][0]
        failures = answer.get("failures", [])
        if not failures:
            raise Unreachable("ECS answered RunTask with neither a task nor a failure")
        raise of_failure(failures[0].get("reason", ""), failures[0].get("detail", ""))

    async def stop_task(self, arn: str, reason: str) -> bool:
        """Ask a task to end; return False if ECS does not know it, or no longer."""
        try:
            await self._connection.call(
                lambda client: client.stop_task(cluster=self._cluster, task=arn, reason=reason)
            )
        except Rejected as error:
            if "not found" not in str(error).lower():
                raise
            return False
        return True

    async def pages(self, **filters: str) -> AsyncGenerator[list[str], None]:
        """Yield the ARNs of the cluster's tasks, a page at a time."""
        token = ""
        while True:
            more = {**filters, **({"nextToken": token} if token else {})}
            answer = await self._read(
                lambda client, more=more: client.list_tasks(cluster=self._cluster, maxResults=BATCH, **more)
            )
            yield answer["taskArns"]
            if not (token := answer.get("nextToken", "")):
                return

    async def describe(self, arn: str) -> TaskTypeDef | None:
        """Return a task as ECS shows it; None if it does not know it, now or any more."""
        answer = self._asked.get(arn)
        if answer is None:
            answer = self._asked[arn] = asyncio.get_running_loop().create_future()
            if len(self._readers) < READERS:
                reader = asyncio.create_task(self._answer_all())
                self._readers.add(reader)
                reader.add_done_callback(self._readers.discard)
        # Others may wait for the same answer.
        return await asyncio.shield(answer)

    async def describe_all(self, arns: Sequence[str]) -> dict[str, TaskTypeDef]:
        """Return ARN → task, of those of at most `BATCH` that ECS knows."""
        answer = await self._read(
            lambda client: client.describe_tasks(cluster=self._cluster, tasks=list(arns))
        )
        for failure in answer.get("failures", []):
            if failure.get("reason") != "MISSING":
                log.warning("ECS does not describe task %s: %s", failure.get("arn"), failure.get("reason"))
        return {task["taskArn"]: task for task in answer["tasks"] if "taskArn" in task}

    async def _answer_all(self) -> None:
        """Ask about all that is to be asked about, `BATCH` at a time."""
        while self._asked:
            asked = {arn: self._asked.pop(arn) for arn in list(self._asked)[:BATCH]}
            try:
                found = await self.describe_all(list(asked))
                # Whatever it shows in the place of what was asked for: nothing is known of that.
                mixed_up = not found.keys() <= asked.keys()
            except BaseException as error:
                for answer in asked.values():
                    if not answer.done():
                        answer.set_exception(
                            error
                            if isinstance(error, ProviderError)
                            else Unreachable(f"not asked: {error!r}")
                        )
                        answer.exception()  # who waited may have gone
                if not isinstance(error, ProviderError):
                    raise
            else:
                for arn, answer in asked.items():
                    if answer.done():
                        continue
                    if mixed_up and arn not in found:
                        answer.set_exception(Unreachable(f"ECS showed another task when asked for {arn}"))
                        answer.exception()
                    else:
                        answer.set_result(found.get(arn))

    async def _read(self, call: Callable[[ECSClient], Awaitable[T]]) -> T:
        """Make a read in its turn."""
        self._reads, wait, taken = self._reads.reserve(self._clock.monotonic(), READ_PATIENCE)
        if not taken:
            raise Throttled(f"ECS may be asked about tasks again in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)
        try:
            return await self._connection.call(call)
        except Throttled as throttled:
            self._reads = self._reads.hold(self._clock.monotonic(), throttled.retry_after)
            raise
