"""Callers who do not give up: each starts a session, lets it end in one of several ways, and keeps book."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.load.dispatchers import Dispatcher

OFFER = {"sdp": "an offer", "type": "offer"}
BUSY, UNAVAILABLE = 429, 503
"""The answers that are no fault: the caller is to come back."""

RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 45.0
"""So long a caller comes back for an answer."""

MOST_TIMES_BUSY = 10
"""Refusals for capacity that a caller hears before going away."""

MOST_SECONDS_OF_AN_ANSWER = 20.0
"""Longer than any deadline of a session here: whoever holds an answer for longer has forgotten it."""

OVER = ("ended", "failed")


class Unanswered(Exception):
    """A caller went on asking and got no answer."""


@dataclass
class Book:
    """Answers that the callers got."""

    sessions: dict[str, set[str]] = field(default_factory=dict)
    """Idempotency-Key → the sessions that were named to its caller."""
    answers: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """How callers had their sessions end, as far as they did it."""
    wrong: list[str] = field(default_factory=list)
    """Answers that must not be."""


@dataclass
class Callers:
    """The load.

    Args:
        dispatchers: A caller whose dispatcher does not answer goes on to the next one.
        agents: Whom they call.
        seconds: How long a conversation may take that ends by itself, from the shortest to the longest.
        harms: What a bot may do beside: names in `bots/brief.py`. Each is as often as any other end.
    """

    dispatchers: Sequence[Dispatcher]
    agents: Sequence[str]
    random: random.Random
    seconds: tuple[float, float] = (0.2, 1.5)
    harms: Sequence[str] = ()
    book: Book = field(default_factory=Book)

    def __post_init__(self) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        self._client = httpx.AsyncClient(timeout=MOST_SECONDS_OF_AN_ANSWER, limits=limits)
        self._preferred = 0
        self._ends: list[Callable[[str], Awaitable[None]]] = []

    async def close(self) -> None:
        await self._client.aclose()

    async def keep_calling(self, callers: int, enough: asyncio.Event) -> None:
        """So many callers at a time, one session after the other, until it is enough."""
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._keep_calling(enough))

    async def _keep_calling(self, enough: asyncio.Event) -> None:
        while not enough.is_set():
            await self.call()
            await asyncio.sleep(self.random.uniform(0, 0.5))

    async def call(self) -> None:
        """One session, from its start to its end."""
        key, agent = uuid.uuid4().hex, self.random.choice(self.agents)
        body: dict[str, Any] = {"seconds": self.random.uniform(*self.seconds)}
        end = self._next_end()
        if end == self._suffer:
            body["harm"] = self.random.choice(self.harms)
        elif end != self._be_left:
            body["seconds"] = 60.0  # longer than the test: something else ends it
        wait = self.random.choice(["none", "started", "ready"])
        queue = self.random.choice([0, 0, 3])
        start = f"/v1/public/{agent}/start?wait={wait}&queue={queue}"
        session_id = await self._start(key, start, body)
        if session_id is None:
            return
        await end(session_id)
        await self.see_the_end(session_id)
        if self.random.random() < 0.3 and await self._start(key, start, body) is not None:
            self.book.answers["the same key, once more"] += 1

    def _next_end(self) -> Callable[[str], Awaitable[None]]:
        """Choose the end of the next session: of every twelve, so many end in each way."""
        if not self._ends:
            self._ends += [self._join_and_stop] * 3 + [self._be_left] * 4 + [self._kill] * 2
            self._ends += [self._never_join] + [self.stop] * 2
            self._ends += [self._suffer] * len(self.harms)
            self.random.shuffle(self._ends)
        return self._ends.pop()

    async def start_one(self) -> str:
        """A session with its client, which goes on."""
        path = f"/v1/public/{self.random.choice(self.agents)}/start"
        session_id = await self._start(uuid.uuid4().hex, path, {"seconds": self.seconds[1]})
        assert session_id is not None
        assert await self._join(session_id)
        return session_id

    async def _start(self, key: str, path: str, body: dict[str, Any]) -> str | None:
        """The session, or None if it is one that failed before it could be answered."""
        answer = await self._ask("POST", path, json={"body": body}, headers={"Idempotency-Key": key})
        if answer.status_code == 200:
            session_id = answer.json()["sessionId"]
            self.book.sessions.setdefault(key, set()).add(session_id)
            return session_id
        self._check(answer, (BUSY, 502), "start")
        return None

    async def _join(self, session_id: str) -> bool:
        """Be the session's client. False if it was over before."""
        answer = await self._ask("POST", f"/sessions/{session_id}/api/offer", json=OFFER)
        # 409: the answer to an earlier offer was lost, and this is the same client.
        # 504: the bot hangs.
        self._check(answer, (200, 409, 410, 502, *([504] if self.harms else [])), "offer")
        return answer.status_code in (200, 409)

    async def _join_and_stop(self, session_id: str) -> None:
        await self._join(session_id)
        await asyncio.sleep(self.random.uniform(0, 1))
        await self.stop(session_id)

    async def stop(self, session_id: str) -> None:
        """End the session."""
        answer = await self._ask("DELETE", f"/sessions/{session_id}")
        self._check(answer, (200,), "stop")
        self.book.ends["stopped"] += 1

    async def _be_left(self, session_id: str) -> None:
        if await self._join(session_id):
            self.book.ends["left to its bot"] += 1

    async def _kill(self, session_id: str) -> None:
        joined = await self._join(session_id)
        for bot in await asyncio.to_thread(self.dispatchers[0].bots_of, f"m-{session_id}"):
            try:
                bot.kill()
            except psutil.NoSuchProcess:
                continue
            self.book.ends["its bot killed"] += 1
            return
        if joined:
            await self.stop(session_id)  # the bot ended before it could be killed

    async def _suffer(self, session_id: str) -> None:
        """Meet a bot that does harm; half of them are left to the dispatcher."""
        await self._join(session_id)
        await asyncio.sleep(self.random.uniform(0, 1))
        if self.random.random() < 0.5:
            self.book.ends["left to a bot that does harm"] += 1
        else:
            await self.stop(session_id)

    async def _never_join(self, session_id: str) -> None:
        self.book.ends["never joined"] += 1

    async def record(self, session_id: str) -> dict[str, Any]:
        answer = await self._ask("GET", f"/sessions/{session_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def see_the_end(self, session_id: str) -> dict[str, Any]:
        """The session's record once it is over."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if (record := await self.record(session_id))["state"] in OVER:
                return record
            await asyncio.sleep(0.25)
        raise Unanswered(f"session {session_id} does not end within {PATIENCE_SECONDS:g} s")

    async def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask until there is an answer, of whichever dispatcher gives one."""

        async def ask() -> httpx.Response | None:
            dispatcher = self.dispatchers[self._preferred % len(self.dispatchers)]
            try:
                answer = await self._client.request(method, f"{dispatcher.url}{path}", **request)
            except httpx.ReadTimeout as error:
                raise Unanswered(f"{method} {path}: {type(error).__name__}") from error
            except httpx.TransportError as error:
                self.book.answers[type(error).__name__] += 1
                self._preferred += 1
                return None
            self.book.answers[f"{method} {answer.status_code}"] += 1
            if answer.status_code in (BUSY, UNAVAILABLE) and "retry-after" not in answer.headers:
                self._wrong(answer, "has no Retry-After")
            return None if answer.status_code == UNAVAILABLE else answer

        for _ in range(MOST_TIMES_BUSY):
            answer = await until_given(ask, f"{method} {path}")
            if answer.status_code != BUSY:
                return answer
            await asyncio.sleep(self.random.uniform(0.2, 0.6))
        return answer  # pyright: ignore[reportPossiblyUnboundVariable] - it asked at least once

    def _check(self, answer: httpx.Response, allowed: tuple[int, ...], what: str) -> None:
        if answer.status_code not in allowed:
            self._wrong(answer, f"is none of {allowed} for {what}")

    def _wrong(self, answer: httpx.Response, why: str) -> None:
        request = f"{answer.request.method} {answer.request.url}"
        self.book.wrong.append(f"{request}: {answer.status_code} {why}: {answer.text[:300]}")


async def until_given(ask: Callable[[], Awaitable[Any]], what: str) -> Any:
    """Ask until there is something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (given := await ask()) is not None:
            return given
        await asyncio.sleep(RETRY_SECONDS)
    raise Unanswered(f"{what}: no answer within {PATIENCE_SECONDS:g} s")
