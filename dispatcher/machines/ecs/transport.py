"""The AWS SDK over an httpx transport, by which tests answer in the place of the API."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx
from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ConnectionClosedError


class _Raw:
    """An answer's body as the SDK reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        return self._content


def session_over(transport: httpx.AsyncBaseTransport) -> type[AIOHTTPSession]:
    """Return the class of an HTTP session that sends through this transport."""

    class Session(AIOHTTPSession):
        def __init__(self, **_options: Any) -> None:
            """Timeouts and connections are the transport's own."""

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            return

        async def close(self) -> None:
            return

        async def send(self, request: Any) -> AioAWSResponse:
            headers = {
                name: value.decode() if isinstance(value, bytes) else value
                for name, value in request.headers.items()
            }
            made = httpx.Request(request.method, request.url, headers=headers, content=request.body)
            try:
                answer = await transport.handle_async_request(made)
                content = await answer.aread()
            except httpx.HTTPError as error:
                raise ConnectionClosedError(error=error, endpoint_url=request.url) from error
            return AioAWSResponse(request.url, answer.status_code, dict(answer.headers), _Raw(content))

    return Session
