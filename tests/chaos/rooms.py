"""The service that has the rooms: what is there whatever becomes of dispatchers, and how it fails them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from tests.chaos.gate import Gate, VirtualLoop
from tests.daily.fake import API_KEY, DOMAIN, DOMAIN_ID, Answer, FakeDaily

SETTINGS = {
    "daily_api_key": SecretStr(API_KEY),
    "daily_domain": DOMAIN,
    "daily_domain_id": DOMAIN_ID,
}

LATEST_SECONDS = 8.0
"""A call that was sent comes through within that time, or never; dispatchers believe it of 10."""


@dataclass(frozen=True)
class Faults:
    """Faults of Daily's API, each as a share of its calls. They end when the world calms down."""

    lost_requests: float = 0.0
    lost_replies: float = 0.0
    slow: float = 0.0
    throttled: float = 0.0
    failed: float = 0.0
    dark: tuple[float, float] = (0.0, 0.0)
    """From and until when (seconds of the simulation) no call is answered, though some come through."""


def faults(rng: random.Random) -> Faults:
    """A service that is mostly well, or ill in a few ways."""
    ills: dict[str, Any] = {
        name: rng.random() * 0.4
        for name in ("lost_requests", "lost_replies", "slow", "throttled", "failed")
        if rng.random() < 0.4
    }
    if rng.random() < 0.3:
        from_ = rng.random() * 15
        ills["dark"] = (from_, from_ + rng.choice([2.0, 10.0]))
    return Faults(**ills)


class Service:
    """The one service, behind all dispatchers.

    Args:
        on_change: Told of a room that is created or deleted: which, and its name.
    """

    def __init__(
        self, loop: VirtualLoop, rng: random.Random, faults: Faults, on_change: Callable[[str, str], None]
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.fake = FakeDaily(_Clock(loop), on_change=on_change)

    def calm(self) -> None:
        """From now on nothing fails."""
        self.faults = Faults()

    def admits(self, url: str, token: str) -> bool:
        """True if somebody with this token gets into the room."""
        return self.fake.admits(url.rpartition("/")[2], token) is not None

    def dark(self) -> bool:
        from_, until = self.faults.dark
        return from_ <= self.loop.time() < until

    def luck(self, share: float) -> bool:
        return self.rng.random() < share

    def send(self, request: httpx.Request, body: bytes) -> asyncio.Future[Answer]:
        """A call is on its way: it comes through at its time, whoever still waits for it."""
        answer: asyncio.Future[Answer] = self.loop.create_future()
        takes = self.rng.random() * (LATEST_SECONDS if self.luck(self.faults.slow) else 0.4)

        def come_through() -> None:
            path = request.url.path.removeprefix("/v1")
            found = self.fake.serve(request.method, path, request.headers, body)
            if not answer.done():
                answer.set_result(found)

        self.loop.call_later(takes, come_through)
        return answer


class Line(httpx.AsyncBaseTransport):
    """A dispatcher's connection to the service, in the place of the network."""

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service = service
        self._gate = gate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        service, body = self._service, await request.aread()
        await self._gate.through("room is asked")
        faults, dark = service.faults, service.dark()
        if not dark and service.luck(faults.throttled):
            return httpx.Response(429, json={"error": "rate-limit-error"})
        if not dark and service.luck(faults.failed):
            return httpx.Response(500, json={"error": "server-error"})
        if service.luck(0.5 if dark else faults.lost_requests):
            raise httpx.ConnectError("no route to host", request=request)
        answer = service.send(request, body)
        if dark or service.luck(faults.lost_replies):
            await self._gate.through("room is lost", service.rng.random() * 2)
            raise httpx.ReadError("the connection was reset", request=request)
        found = await asyncio.shield(answer)
        await self._gate.through("room is answered")
        return httpx.Response(found.status, json=found.body)


class _Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.now

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
