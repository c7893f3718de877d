"""Calls of the ECS API that the provider makes.

Reads share one bucket of the account: "Cluster resource read actions" of the ECS API reference, "Request
throttling". DescribeTasks takes up to 100 tasks, so questions that come while another one is under way go
together in the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, cast

import httpx
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.loaders import Loader

from dispatcher.clock import Clock
from dispatcher.machines.ecs.errors import mapped, of_failure
from dispatcher.machines.ecs.transport import session_over
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

CONNECT_SECONDS = 5.0
CALL_SECONDS = 8.0
"""Limit on a call. The fleet gives up after 10."""

CONNECTIONS = 100
"""At once. A call takes some 100 ms, and no more than 40 in a second are allowed."""

BATCH = 100
"""The most tasks of one DescribeTasks, and of one page of ListTasks."""

READERS = 4
"""DescribeTasks calls at the same time."""


class TokenTaken(Exception):
    """ECS has another task for the client token: it was asked for with other parameters."""

    def __init__(self, arns: Sequence[str], words: str) -> None:
        super().__init__(words)
        self.arns = arns


@dataclass(frozen=True)
class Credentials:
    """An access key; empty: what the SDK finds, the task's role first."""

    key_id: str = ""
    secret: str = field(default="", repr=False)


class EcsApi:
    """One client for a region and cluster. Every method raises `ProviderError`.

    Args:
        url: The API, in the place of the region's.
        transport: Answers in the place of the API, for tests.
    """

    def __init__(
        self,
        *,
        region: str,
        cluster: str,
        clock: Clock,
        url: str = "",
        credentials: Credentials | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._region = region
        self._cluster = cluster
        self._clock = clock
        self._url = url
        self._credentials = credentials or Credentials()
        self._transport = transport
        self._session = get_session()
        self._session.register_component("data_loader", _models())
        self._opened: ECSClient | None = None
        self._opening = asyncio.Lock()
        self._stack = contextlib.AsyncExitStack()
        self._reads = TokenBucket(READ_RATE)
        self._asked: dict[str, asyncio.Future[TaskTypeDef | None]] = {}
        """Task that the next DescribeTasks asks about → its answer."""
        self._readers: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        if self._readers:
            await end_tasks(*self._readers)
        await self._stack.aclose()
        self._opened = None

    async def run_task(self, request: RunTaskRequestTypeDef) -> TaskTypeDef:
        """Ask for one task.

        Raises:
            TokenTaken: Another task has the request's client token.
        """
        client = await self.client()
        try:
            answer = await self._call(lambda: client.run_task(**request))
        except _Conflict as conflict:
            raise TokenTaken(conflict.arns, str(conflict)) from conflict
        if answer.get("tasks"):
            return answer["tasks"][0]
        failures = answer.get("failures", [])
        if not failures:
            raise Unreachable("ECS answered RunTask with neither a task nor a failure")
        raise of_failure(failures[0].get("reason", ""), failures[0].get("detail", ""))

    async def stop_task(self, arn: str, reason: str) -> bool:
        """Ask a task to end; return False if ECS does not know it, or no longer."""
        client = await self.client()
        try:
            await self._call(lambda: client.stop_task(cluster=self._cluster, task=arn, reason=reason))
        except Rejected as error:
            if "not found" not in str(error).lower():
                raise
            return False
        return True

    async def pages(self, **filters: str) -> AsyncGenerator[list[str], None]:
        """Yield the ARNs of the cluster's tasks, a page at a time."""
        client, token = await self.client(), ""
        while True:
            more = {**filters, **({"nextToken": token} if token else {})}
            answer = await self._read(
                lambda more=more: client.list_tasks(cluster=self._cluster, maxResults=BATCH, **more)
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
        client = await self.client()
        answer = await self._read(lambda: client.describe_tasks(cluster=self._cluster, tasks=list(arns)))
        for failure in answer.get("failures", []):
            if failure.get("reason") != "MISSING":
                log.warning("ECS does not describe task %s: %s", failure.get("arn"), failure.get("reason"))
        return {task["taskArn"]: task for task in answer["tasks"] if "taskArn" in task}

    async def client(self) -> ECSClient:
        """Return the client; the first call makes it."""
        async with self._opening:
            if self._opened is None:
                self._opened = await self._open()
            return self._opened

    async def _open(self) -> ECSClient:
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=CALL_SECONDS,
            max_pool_connections=CONNECTIONS,
            # The fleet repeats calls, and knows which.
            retries={"total_max_attempts": 1, "mode": "standard"},
            **({"http_session_cls": session_over(self._transport)} if self._transport else {}),
        )
        try:
            made = self._session.create_client(
                "ecs",
                region_name=self._region,
                endpoint_url=self._url or None,
                aws_access_key_id=self._credentials.key_id or None,
                aws_secret_access_key=self._credentials.secret or None,
                config=config,
            )
            return cast("ECSClient", await self._stack.enter_async_context(made))
        except BotoCoreError as error:
            raise _unanswered(error) from error

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

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a read in its turn."""
        self._reads, wait, taken = self._reads.reserve(self._clock.monotonic(), READ_PATIENCE)
        if not taken:
            raise Throttled(f"ECS may be asked about tasks again in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)
        try:
            return await self._call(call)
        except Throttled as throttled:
            self._reads = self._reads.hold(self._clock.monotonic(), throttled.retry_after)
            raise

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except ClientError as error:
            said = error.response.get("Error", {})
            code, words = said.get("Code", ""), said.get("Message", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            if code == "ConflictException":
                raise _Conflict(error.response.get("resourceIds", []), words) from error
            raise mapped(code, words, status) from error
        except BotoCoreError as error:
            raise _unanswered(error) from error


@functools.cache
def _models() -> Loader:
    """Return the SDK's models, which all placements share.

    It reads that of a service from disk, for some 100 ms: better now than while the dispatcher serves.
    """
    models = Loader()
    models.load_service_model("ecs", "service-2")
    return models


class _Conflict(ProviderError):
    """The token is another task's."""

    def __init__(self, arns: Sequence[str], words: str) -> None:
        super().__init__(f"ECS answered ConflictException: {words}")
        self.arns = arns


def _unanswered(error: BotoCoreError) -> ProviderError:
    """Return the error of a call that was not made, or got no answer that can be read."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return Rejected(
            "no credentials for AWS were found: give the dispatcher's task a role, or set ecs_access_key_id "
            "and ecs_secret_access_key"
        )
    if isinstance(error, ParamValidationError):
        return Rejected(f"ECS takes no such request: {error}")
    return Unreachable(f"ECS did not answer: {type(error).__name__}")
