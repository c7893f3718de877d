"""The SDK's client for ECS: it is opened with the first call, and its errors are `ProviderError`s."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
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
from dispatcher.machines.ecs.errors import mapped
from dispatcher.machines.ecs.transport import session_over
from dispatcher.machines.provider import ProviderError, Rejected, Unreachable

if TYPE_CHECKING:
    from types_aiobotocore_ecs import ECSClient

T = TypeVar("T")

CONNECT_SECONDS = 5.0
CALL_SECONDS = 8.0
"""Limit on a call. The fleet gives up after 10."""

CONNECTIONS = 100
"""At once. A call takes some 100 ms, and no more than 40 in a second are allowed."""

REOPEN_SECONDS = 5.0
"""Between two searches for credentials: each reads files, and asks services that may answer late."""


@dataclass(frozen=True)
class Credentials:
    """An access key; empty: what the SDK finds, the task's role first."""

    key_id: str = ""
    secret: str = field(default="", repr=False)


class TokenTaken(Rejected):
    """ECS has another task for the client token: it was asked for with other parameters."""

    def __init__(self, arns: Sequence[str], words: str) -> None:
        super().__init__(f"ECS answered ConflictException: {words}")
        self.arns = arns
        """ARNs of the tasks that have it."""


class Connection:
    """One client for a region.

    Args:
        url: The API, in the place of the region's.
        transport: Answers in the place of the API, for tests.
    """

    def __init__(
        self,
        *,
        region: str,
        clock: Clock,
        url: str = "",
        credentials: Credentials | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._region = region
        self._clock = clock
        self._url = url
        self._credentials = credentials or Credentials()
        self._transport = transport
        self._session = get_session()
        self._session.register_component("data_loader", _models())
        self._client: ECSClient | None = None
        self._opening = asyncio.Lock()
        self._opened_at = 0.0
        self._has_credentials = True
        """False once a call had none. A client never looks for them again."""
        self._stack = contextlib.AsyncExitStack()

    async def close(self) -> None:
        self._client = None
        await self._stack.aclose()

    async def call(self, call: Callable[[ECSClient], Awaitable[T]]) -> T:
        """Make a call.

        Raises:
            TokenTaken: Another task has the request's client token.
            ProviderError: As ECS answered, or because it did not.
        """
        try:
            return await call(await self._opened())
        except ClientError as error:
            said = error.response.get("Error", {})
            code, words = said.get("Code", ""), said.get("Message", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
            if code == "ConflictException":
                raise TokenTaken(error.response.get("resourceIds", []), words) from error
            raise mapped(code, words, status) from error
        except BotoCoreError as error:
            if isinstance(error, NoCredentialsError):
                self._has_credentials = False
            raise _unanswered(error) from error

    async def _opened(self) -> ECSClient:
        """Return the client; open it first if there is none, or none with credentials."""
        async with self._opening:
            now = self._clock.monotonic()
            if not self._has_credentials and now >= self._opened_at + REOPEN_SECONDS:
                await self.close()
            if self._client is None:
                self._opened_at, self._has_credentials = now, True
                self._client = await self._stack.enter_async_context(self._made())
            return self._client

    def _made(self) -> contextlib.AbstractAsyncContextManager[ECSClient]:
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=CALL_SECONDS,
            max_pool_connections=CONNECTIONS,
            # The fleet repeats calls, and knows which.
            retries={"total_max_attempts": 1, "mode": "standard"},
            **({"http_session_cls": session_over(self._transport)} if self._transport else {}),
        )
        made = self._session.create_client(
            "ecs",
            region_name=self._region,
            endpoint_url=self._url or None,
            aws_access_key_id=self._credentials.key_id or None,
            aws_secret_access_key=self._credentials.secret or None,
            config=config,
        )
        return cast("contextlib.AbstractAsyncContextManager[ECSClient]", made)


@functools.cache
def _models() -> Loader:
    """Return the SDK's models, which all placements share.

    It reads that of a service from disk, for some 100 ms: better now than while the dispatcher serves.
    """
    models = Loader()
    models.load_service_model("ecs", "service-2")
    return models


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
