"""Calls of one of Google's JSON APIs: with a token, in turn under its rate quotas, within limits of time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx

from dispatcher.clock import Clock
from dispatcher.machines.google.credentials import Tokens
from dispatcher.machines.google.errors import Answer, mapped
from dispatcher.machines.provider import ProviderError, Throttled, Unreachable
from dispatcher.rate_limit import Rate, TokenBucket

CONNECT_SECONDS = 5.0
CALL_SECONDS = 8.0
"""Limit on a call. The fleet gives up after 10."""

PATIENCE_SECONDS = 5.0
"""Limit on a call's wait for its turn."""

CONNECTIONS = 1000
"""Limit on concurrent connections: each machine that starts may hold one."""

Kind = Literal["read", "write", "operation"]
"""A call's rate quota."""


class GoogleApi:
    """One client. Methods raise `ProviderError`.

    Args:
        name: The API's name in errors.
        url: Base of every path.
        rates: Rate of each kind of call; a kind without one is unlimited.
        transport: Answers in the place of the API, for tests.
    """

    def __init__(
        self,
        name: str,
        url: str,
        tokens: Tokens,
        clock: Clock,
        rates: Mapping[Kind, Rate],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._tokens = tokens
        self._clock = clock
        self._transport = transport
        self._buckets: dict[Kind, TokenBucket] = {kind: TokenBucket(rate) for kind, rate in rates.items()}
        self._made: httpx.AsyncClient | None = None

    async def close(self) -> None:
        if self._made is not None:
            await self._made.aclose()
            self._made = None

    async def call(
        self,
        kind: Kind,
        method: str,
        path: str,
        *,
        params: Sequence[tuple[str, str]] = (),
        json: Any = None,
        seconds: float = CALL_SECONDS,
        expected: Sequence[int] = (),
    ) -> Answer:
        """Make a call in its turn; return the answer if it is good, or has an expected status.

        Raises:
            ProviderError: Any other answer, or none.
        """
        await self._turn(kind)
        token = await self._tokens.token()
        answer = await self._send(method, path, params, json, seconds, token)
        if answer.status == 401:
            # The account's key was replaced, or the token was revoked. Nothing was done.
            token = await self._tokens.token(refused=token)
            answer = await self._send(method, path, params, json, seconds, token)
        if answer.ok or answer.status in expected:
            return answer
        error = self.error(answer)
        if isinstance(error, Throttled):
            bucket = self._buckets.get(kind) or TokenBucket()
            self._buckets[kind] = bucket.hold(self._clock.monotonic(), error.retry_after)
        raise error

    def error(self, answer: Answer) -> ProviderError:
        """Return the meaning of an answer that is an error."""
        return mapped(answer, self.name, self._clock.now())

    async def _turn(self, kind: Kind) -> None:
        bucket = self._buckets.get(kind) or TokenBucket()
        self._buckets[kind], wait, taken = bucket.reserve(self._clock.monotonic(), PATIENCE_SECONDS)
        if not taken:
            raise Throttled(f"{self.name} may be called again in {wait:.1f} s", wait)
        if wait > 0:
            await self._clock.sleep(wait)

    async def _send(
        self, method: str, path: str, params: Sequence[tuple[str, str]], json: Any, seconds: float, token: str
    ) -> Answer:
        whole = CONNECT_SECONDS + seconds
        try:
            # httpx limits the time between two parts of an answer, not that of all of them.
            async with asyncio.timeout(whole):
                answer = await self._client.request(
                    method,
                    f"{self._url}/{path}",
                    params=tuple(params),
                    json=json,
                    headers={"Authorization": f"Bearer {token}"},
                    timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
                )
        except TimeoutError:
            raise Unreachable(f"{self.name} did not end its answer within {whole:g} s") from None
        except httpx.HTTPError as error:
            # The exception's own text may hold the request's header, with the token.
            raise Unreachable(f"{self.name} did not answer: {type(error).__name__}") from None
        try:
            body = answer.json() if answer.content else {}
        except ValueError:
            body = None
        if not isinstance(body, dict):
            if answer.is_success:
                raise Unreachable(f"{self.name} answered {answer.status_code} without a JSON object")
            body = {}
        return Answer(answer.status_code, body, answer.headers.get("retry-after", ""))

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=CONNECTIONS), transport=self._transport
            )
        return self._made
