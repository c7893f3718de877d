"""Access tokens for Google's APIs, from google-auth.

google-auth is synchronous, so it runs in a thread; its requests go through the event loop's own HTTP client.
One refresh serves all who wait for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import google.auth
import google.oauth2.service_account
import httpx
from google.auth import exceptions

from dispatcher.clock import Clock
from dispatcher.machines.provider import ProviderError, Rejected, Unreachable

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

FRESH_SECONDS = 225.0
"""A token is replaced so long before it expires: google-auth's own threshold."""

HELD_SECONDS = 10.0
"""Credentials that were not found are looked for again after so long. On a host without a metadata server
each look takes seconds."""

REQUEST_SECONDS = 10.0
"""Limit on one request of google-auth."""

MISSING = (
    "no credentials for Google Cloud were found: run the dispatcher with a service account (Cloud Run, a "
    "VM), set GOOGLE_APPLICATION_CREDENTIALS, or set the provider's credentials"
)


class Tokens(Protocol):
    """Gives access tokens."""

    async def token(self, refused: str = "") -> str:
        """Return a token that is good now.

        Args:
            refused: A token that the API has just refused.

        Raises:
            ProviderError: There is none.
        """
        ...


class Credentials:
    """Access tokens of a service account.

    Args:
        given: Content of a credential file; empty: the credentials of this host.
        transport: Answers in the place of the token's server, for tests.
    """

    def __init__(self, given: str, clock: Clock, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._given = given
        self._clock = clock
        self._transport = transport
        self._found: Any = None
        self._token = ""
        self._fresh_until = self._good_until = float("-inf")
        self._refreshing: asyncio.Task[str] | None = None
        self._failed: ProviderError | None = None
        self._failed_at = float("-inf")

    async def token(self, refused: str = "") -> str:
        now, is_usable = self._clock.monotonic(), bool(self._token) and self._token != refused
        if is_usable and now < self._fresh_until:
            return self._token
        try:
            return await self._another(now)
        except ProviderError:
            if is_usable and self._clock.monotonic() < self._good_until:
                return self._token
            raise

    async def _another(self, now: float) -> str:
        """Return a new token."""
        if self._failed is not None and now < self._failed_at + HELD_SECONDS:
            raise self._failed
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        # Others may wait for it too.
        return await asyncio.shield(self._refreshing)

    async def _refresh(self) -> str:
        try:
            async with httpx.AsyncClient(transport=self._transport, timeout=REQUEST_SECONDS) as client:
                request = _Request(client, asyncio.get_running_loop())
                self._token, seconds = await asyncio.to_thread(self._fetch, request)
        except exceptions.DefaultCredentialsError as error:
            raise self._failure(Rejected(f"{MISSING}: {error}")) from error
        except exceptions.TransportError as error:
            raise self._failure(Unreachable(f"Google gave no access token: {error}")) from error
        except exceptions.RefreshError as error:
            # The key was deleted or its account disabled; or the server of tokens is out of order.
            of = Unreachable if error.retryable else Rejected
            raise self._failure(of(f"Google gave no access token: {error}")) from error
        except (exceptions.GoogleAuthError, ValueError) as error:
            words = f"the credentials cannot be used: {type(error).__name__}"
            raise self._failure(Rejected(words)) from error
        except (KeyError, TypeError, AttributeError) as error:
            # google-auth takes the shape of an answer for granted.
            words = f"Google gave no access token, but an answer of another shape: {type(error).__name__}"
            raise self._failure(Unreachable(words)) from error
        self._failed = None
        self._good_until = self._clock.monotonic() + seconds
        self._fresh_until = self._good_until - FRESH_SECONDS
        return self._token

    def _failure(self, error: ProviderError) -> ProviderError:
        self._failed, self._failed_at = error, self._clock.monotonic()
        return error

    def _fetch(self, request: _Request) -> tuple[str, float]:
        """Return a token and its seconds. Runs in a thread."""
        if self._found is None:
            self._found = _load(self._given, request)
        self._found.refresh(request)
        expiry = self._found.expiry or datetime.now(UTC).replace(tzinfo=None)
        left = expiry.replace(tzinfo=UTC) - datetime.now(UTC)
        return self._found.token, left.total_seconds()


def _load(given: str, request: _Request) -> Any:
    if not given:
        return google.auth.default(scopes=SCOPES, request=request)[0]
    info = json.loads(given)
    if info["type"] == "service_account":
        return google.oauth2.service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    return google.auth.load_credentials_from_dict(info, scopes=SCOPES, request=request)[0]


class _Response:
    """An answer as google-auth reads it."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        self.headers: Mapping[str, str] = answer.headers
        self.data = answer.content


class _Request:
    """google-auth's interface of an HTTP client (`google.auth.transport.Request`), for its thread."""

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> _Response:
        call: Callable[..., Any] = self._client.request
        work = call(method, url, content=body, headers=headers, timeout=timeout or REQUEST_SECONDS)
        try:
            return _Response(asyncio.run_coroutine_threadsafe(work, self._loop).result())
        except httpx.HTTPError as error:
            # The exception's own text may hold the request, with a secret in it.
            raise exceptions.TransportError(type(error).__name__) from None
