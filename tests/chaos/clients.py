"""The clients: what they ask of a dispatcher, how they retry, and what they make of the answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from bot import protocol
from dispatcher.core import Core
from dispatcher.domain.errors import (
    AtCapacity,
    Restarting,
    SessionError,
)
from dispatcher.sessions.service import Wait
from dispatcher.sessions.starts import Start, Started
from dispatcher.tasks import end_tasks

T = TypeVar("T")


class ConnectionLost(Exception):
    """The dispatcher died before it answered, or nobody listens."""


class HungUp(Exception):
    """The client itself went away."""


class Service(Protocol):
    """The dispatchers as clients reach them."""

    async def request(self, name: str, work: Callable[[Core], Awaitable[T]]) -> T:
        """Raises ConnectionLost, SessionError (an answer), or SQLAlchemyError (an answer too: 503)."""
        ...


@dataclass(frozen=True)
class Plan:
    """The steps that one client is going to take."""

    name: str
    arrives_at: float
    agent: str
    wait: Wait
    queue_seconds: float
    key: str | None
    twin: bool
    """Sends the same request twice at once."""
    large: bool
    """Its body is too large for arguments."""
    hangs_up_after: float | None
    retries: int
    joins: bool
    follows: bool
    stops_after: float | None
    """Seconds from the answer to the stop; None leaves it to the bot."""
    stops_twice: bool
    redials: bool
    """Starts another session as soon as it has stopped this one."""
    transport: str = "webrtc"


@dataclass
class Attempt:
    """One request for a session, and what came of it."""

    marker: str
    """In the body: by it the session is found."""
    plan: Plan
    sent_at: float
    incarnations: int
    """How many lives dispatchers had had when it was sent."""
    answered_at: float | None = None
    session_id: str | None = None
    state: str | None = None
    error: str | None = None
    hung_up: bool = False
    released: bool = False
    """Whether the dispatcher has acted on that."""
    lost: bool = False
    early: bool = False
    """Whether the dispatcher was about to exit when it answered, and so held the answer no longer."""


@dataclass
class Record:
    """All that the clients have seen."""

    attempts: list[Attempt] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    """Sessions that somebody asked to stop."""
    stop_answered: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    """Sessions whose room a client has gone to."""
    followed: dict[str, list[list[tuple[int, str]]]] = field(default_factory=dict)
    """Session → what each of its followers saw."""


def plans(rng: random.Random, agents: list[str], horizon: float, crowd: bool, rush: bool) -> list[Plan]:
    """A rush of clients, or a trickle, or a crowd that waits for a few lines and keeps coming back."""
    spread = rng.choice([0.5, 5.0, horizon * 0.6])
    if rush:
        spread = 0.5
    number = rng.randint(3, 10)
    found = [_plan(rng, f"c{i}", rng.random() * spread, rng.choice(agents)) for i in range(number)]
    if rng.random() < 0.3 or crowd:
        alike = {"agent": agents[0], "queue_seconds": 15.0, "redials": True, "twin": False}
        found = [replace(plan, **alike, stops_after=rng.random() * 2) for plan in found]
    return found


def _plan(rng: random.Random, name: str, arrives_at: float, agent: str) -> Plan:
    keyed = rng.random() < 0.5
    twin = keyed and rng.random() < 0.6
    return Plan(
        name=name,
        arrives_at=arrives_at,
        agent=agent,
        wait=rng.choice(("none", "started", "ready")),
        queue_seconds=rng.choice([0.0, 4.0, 15.0, 15.0]),
        key=f"key-{name}" if keyed else None,
        twin=twin,
        large=rng.random() < 0.15,
        hangs_up_after=rng.random() * 6 if rng.random() < 0.2 else None,
        retries=rng.choice([0, 1, 4]),
        joins=rng.random() < 0.85,
        follows=rng.random() < 0.35,
        stops_after=rng.random() * rng.choice([0.3, 3.0, 12.0]) if rng.random() < 0.5 else None,
        stops_twice=rng.random() < 0.3,
        redials=not twin and rng.random() < 0.3,
    )


class Client:
    """Follows its plan."""

    def __init__(
        self,
        plan: Plan,
        service: Service,
        record: Record,
        now: Callable[[], float],
        rng: random.Random,
        lives: Callable[[], int],
        on_answer: Callable[[Attempt], None],
    ) -> None:
        self._plan = plan
        self._service = service
        self._record = record
        self._now = now
        self._rng = rng
        self._lives = lives
        self._on_answer = on_answer
        self._number = 0
        self._offers = 0

    async def run(self) -> None:
        await asyncio.sleep(self._plan.arrives_at)
        if not self._plan.twin:
            await self._visit()
            return
        twins = [asyncio.ensure_future(self._visit()) for _ in range(2)]
        try:
            for twin in twins:
                await twin
        finally:
            for twin in twins:
                twin.cancel()

    async def _visit(self) -> None:
        session_id = await self._start()
        if session_id is None:
            return
        works = []
        if self._plan.joins:
            works.append(self._join(session_id))
        if self._plan.follows:
            works.append(self._follow(session_id))
        if stops := self._plan.stops_after is not None:
            works += [self._stop(session_id) for _ in range(2 if self._plan.stops_twice else 1)]
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            if stops and self._plan.redials:
                await tasks[-1]
                await self._redial()
            for task in tasks:
                await task
        finally:
            for task in tasks:
                task.cancel()

    async def _redial(self) -> None:
        plan = replace(
            self._plan, name=f"{self._plan.name}-again", arrives_at=0.0, key=None, twin=False, redials=False
        )
        again = Client(plan, self._service, self._record, self._now, self._rng, self._lives, self._on_answer)
        await again.run()

    async def _start(self) -> str | None:
        for _ in range(1 + self._plan.retries):
            attempt, again = self._attempt(), True
            try:
                started = await self._service.request(
                    attempt.marker, lambda core, a=attempt: self._ask(core, a)
                )
                attempt.session_id, attempt.state = started.session.id, started.session.state
            except ConnectionLost:
                attempt.lost = True
            except HungUp:
                again = False
            except SessionError as error:
                attempt.error = type(error).__name__
                again = isinstance(error, (AtCapacity, Restarting))
            except SQLAlchemyError:
                attempt.error = "store down"
            attempt.answered_at = self._now()
            self._on_answer(attempt)
            if attempt.session_id is not None or attempt.hung_up:
                return attempt.session_id
            if not again:
                return None
            await asyncio.sleep(self._rng.random() * 3)
        return None

    def _attempt(self) -> Attempt:
        self._number += 1
        # A key stands for one body.
        marker = self._plan.name if self._plan.key is not None else f"{self._plan.name}.{self._number}"
        attempt = Attempt(marker, self._plan, self._now(), self._lives())
        self._record.attempts.append(attempt)
        return attempt

    async def _ask(self, core: Core, attempt: Attempt) -> Started:
        """As `POST /start` does it."""
        plan = self._plan
        body: dict[str, Any] = {"marker": attempt.marker}
        if plan.large:
            body["padding"] = "x" * protocol.MAX_ARGUMENT_BODY_BYTES
        start = Start(plan.agent, plan.transport, body=body, queue_seconds=plan.queue_seconds, key=plan.key)
        started = await core.starts.start(start)
        joined = asyncio.ensure_future(core.service.joined(started, plan.wait))
        patience = asyncio.ensure_future(self._outage_retry())
        try:
            await asyncio.wait((joined, patience), return_when=asyncio.FIRST_COMPLETED)
            if joined.done():
                attempt.early = core.service.draining
                return joined.result()
        except SQLAlchemyError:
            await core.service.hang_up(started)
            raise
        finally:
            await end_tasks(joined, patience)
        attempt.session_id, attempt.hung_up = started.session.id, True
        attempt.released = await core.service.hang_up(started)
        raise HungUp

    async def _outage_retry(self) -> None:
        await asyncio.sleep(1e6 if self._plan.hangs_up_after is None else self._plan.hangs_up_after)

    async def _join(self, session_id: str) -> None:
        """Offer a connection, as often as it takes, as the JavaScript client does."""
        if self._plan.transport == "daily":
            self._record.joined.add(session_id)
            return
        for _ in range(5):
            # An id of its own, as the API gives one to every request: twins offer at the same time.
            self._offers += 1
            request_id = f"{self._plan.name}.{self._offers}"
            request = protocol.Request(id=request_id, method="POST", path="api/offer")
            try:
                await self._service.request("offer", lambda core, r=request: core.service.call(session_id, r))
                return
            except (ConnectionLost, SQLAlchemyError, Restarting):
                await asyncio.sleep(2)
            except SessionError:
                return

    async def _stop(self, session_id: str) -> None:
        await asyncio.sleep((self._plan.stops_after or 0.0) + self._rng.random() * 0.1)
        for _ in range(5):
            self._record.stopped.add(session_id)
            try:
                await self._service.request("stop", lambda core: core.service.stop(session_id, "its client"))
                self._record.stop_answered.add(session_id)
                return
            except (ConnectionLost, SQLAlchemyError):
                await asyncio.sleep(1)

    async def _follow(self, session_id: str) -> None:
        """Read the timeline as it grows, and go on after a break where it broke off."""
        seen: list[tuple[int, str]] = []
        self._record.followed.setdefault(session_id, []).append(seen)
        over = False
        while not over:
            after = seen[-1][0] if seen else 0
            try:
                found = await self._service.request(
                    "events", lambda core, a=after: core.watch.wait(session_id, a, 15.0)
                )
            except (ConnectionLost, SQLAlchemyError):
                await asyncio.sleep(0.5)
                continue
            if found is None:
                seen.append((0, "no such session"))
                return
            seen += [(event.number, event.kind) for event in found.events]
            over = found.over
            if not found.events:
                await asyncio.sleep(0.2)
